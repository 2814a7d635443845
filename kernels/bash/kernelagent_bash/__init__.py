"""The Bash host: a shell that lives on, and what is around it."""
