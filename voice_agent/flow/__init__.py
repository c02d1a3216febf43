"""Scripted dialogs: states, slots and what leads from one to the next. Pure, and written in YAML by people."""
