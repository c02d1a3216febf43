"""Typed settings, YAML profiles, and the loader that says where each value came from."""
