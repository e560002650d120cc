"""Optimizers made of ``scratch``."""
