"""Models, losses, optimizers, schedulers, metrics, datasets, loaders and trackers: one component a file.

The registry finds a component by its file name and imports it when it is chosen: adding one means adding
a file.
"""
