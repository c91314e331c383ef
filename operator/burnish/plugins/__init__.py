"""Formats, passes and runtimes, one class per file, found by scanning (`burnish.plugins.registry`)."""
