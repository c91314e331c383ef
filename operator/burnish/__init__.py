"""Burnish: from one `OptimizedModel` manifest to a converted, compressed, proven and served model."""

__version__ = "0.1.0"
