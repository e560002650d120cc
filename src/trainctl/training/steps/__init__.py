"""Training steps that cannot be the plain one, each whole."""
