"""Learning-rate schedulers, one a file; each is stepped once a training step."""
