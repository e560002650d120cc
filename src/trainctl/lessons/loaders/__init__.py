"""The loader made of ``scratch``."""
