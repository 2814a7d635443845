"""`make prove NAME`: what takes more than 20 seconds to prove, with its figures printed.

The suite holds a short form of each.
"""
