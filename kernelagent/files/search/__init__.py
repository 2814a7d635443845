"""Names and lines that match."""
