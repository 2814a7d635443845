"""An open service that runs code for agents and people in warm Jupyter kernels."""

__version__ = "0.1.0"
