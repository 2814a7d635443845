"""A Jupyter kernel around a native process that runs the code: the language's host."""
