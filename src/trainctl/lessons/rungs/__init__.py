"""The ways to train, one a file: the standard loop and the rungs that lead up to it."""
