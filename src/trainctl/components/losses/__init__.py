"""Losses, one a file. Each says with `target` what it compares: class numbers or values."""
