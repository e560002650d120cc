"""The whole life of every config in a few steps: what `trainctl smoke` does, in worker processes."""
