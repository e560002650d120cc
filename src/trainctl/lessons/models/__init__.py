"""Models made of ``scratch``."""
