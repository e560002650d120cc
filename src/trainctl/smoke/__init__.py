"""The whole life of every config in a few steps. Imported by ``ui`` and ``cli``."""
