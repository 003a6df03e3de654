"""The version, which knows of nothing else."""

__version__ = "0.1.0"
