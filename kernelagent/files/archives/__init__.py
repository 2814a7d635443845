"""Directories as tar and zip, both ways."""
