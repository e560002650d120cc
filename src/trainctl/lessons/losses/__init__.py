"""Losses made of ``scratch``."""
