"""Sources to batches: splits, preprocessing, augmentation, sampling, worker processes, tables, images,
shards.

The names below are public: a dataset of one's own returns a ``Data``. Imported by ``components`` and the
rooms above it.
"""

from trainctl.data.types import AnySplit, Data, Datasets, ItemSplit, Split, Standardize

__all__ = ["AnySplit", "Data", "Datasets", "ItemSplit", "Split", "Standardize"]
