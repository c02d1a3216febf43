"""Composition root: CLI, start-up, wiring."""
