"""dlkit: the shell toolkit for people who train neural networks."""

__version__ = "0.1.0"
