"""Runtimes that Triton serves: one class per file."""
