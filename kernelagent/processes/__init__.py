"""Processes: started, streamed, ended, measured."""
