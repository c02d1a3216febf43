"""Telephone audio: G.711, resampling, levels."""
