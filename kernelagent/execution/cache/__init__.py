"""Results of isolated runs, kept for equal ones."""
