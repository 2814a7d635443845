"""Callbacks: the results of background jobs, sent to their callers at least once."""
