"""Benchmarks: the service against what one would use instead, in the same run."""
