"""Emulated carriers and callers, and measurements at the ear."""
