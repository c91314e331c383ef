"""Source formats: one class per file."""
