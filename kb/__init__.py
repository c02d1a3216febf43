"""Knowledge base: parse, chunk, embed, store, retrieve."""
