"""trainctl: the five-line PyTorch loop, driven by config.

In Python: ``trainctl.load(RUN)`` returns a trained model; ``trainctl.registry`` holds the registries that
components of one's own register with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from trainctl.inference.loaded import Loaded

__version__ = "0.1.0"


def load(
    run: str | Path, which: str = "best", *, preprocess: bool = False, trust_plugins: bool = False
) -> Loaded:
    """The trained model of a run, in evaluation mode, on the CPU.

    Args:
        run: the run's directory, ``last``, the name given with ``name=``, or the URL that it is mirrored to;
            of a sweep's directory, its best run.
        which: ``best`` or ``last`` checkpoint; without a best one, the last.
        preprocess: the model together with what comes before and after it: it takes raw samples, as the
            dataset has them (rows of numbers, the position of a text among its column's categories, images of
            0 to 255), and returns probabilities or values.
        trust_plugins: import the run's plugin files although they have changed since.

    ``load(RUN).predict(samples)`` takes rows, tables, images, arrays and paths as they are, and returns what
    ``trainctl predict`` writes, a dict a sample (see trainctl.inference.loaded.Predict). A model with a
    ``predict`` of its own keeps that; with ``preprocess`` there is always this one.

    Raises trainctl.errors.ConfigError when there is no such run, CheckpointError when it has no usable
    checkpoint, UnsafeInputError when a plugin file is not the one the run was made with.

    Called as a module without ``preprocess``, the model takes inputs as the dataset's transform gives them,
    such as scaled ones, and returns its outputs, in the unit of the data where the targets were scaled; the
    tensors of its state are those of training. One of trainctl.lessons.scratch is called the same way.
    """
    from trainctl.inference.loaded import load_model

    return load_model(run, which, preprocess=preprocess, trust_plugins=trust_plugins)


__all__ = ["__version__", "load"]
