"""The thermometer in unknown units."""

from __future__ import annotations

import torch

from trainctl.data import Data, Split, Standardize
from trainctl.registry import DATASETS

_CELSIUS = [0.5, 14.0, 15.0, 28.0, 11.0, 8.0, 3.0, -4.0, 6.0, 13.0, 21.0]
_UNKNOWN = [35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4]


@DATASETS.register("thermometer")
def thermometer() -> Data:
    """Eleven readings of a thermometer in unknown units, to be turned into degrees Celsius.

    The first regression one does by hand: a line through eleven points. Inputs are scaled by 0.1, as in
    Stevens, Antiga and Viehmann, Deep Learning with PyTorch (2020), chapter 5. There is no test split.

    Shape: inputs (11, 1) float32 in unknown units, targets (11, 1) float32 in degrees Celsius.
    """
    return Data(
        name="thermometer",
        task="regression",
        train=Split(torch.tensor(_UNKNOWN).unsqueeze(1), torch.tensor(_CELSIUS).unsqueeze(1)),
        test=None,
        input_shape=(1,),
        output_size=1,
        transform=Standardize(scale=10.0),
        note="embedded",
    )
