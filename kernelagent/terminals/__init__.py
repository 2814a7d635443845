"""Terminals of the sandbox."""
