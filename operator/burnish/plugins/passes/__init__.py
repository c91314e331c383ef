"""Passes, the compressions a user can ask for: one class per file."""
