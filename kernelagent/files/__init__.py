"""Files of the sandbox."""
