"""The workspace and what the service keeps in it."""
