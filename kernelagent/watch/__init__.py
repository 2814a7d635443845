"""Changes of files, as they happen."""
