"""What ends a run, as a user reads it."""

from __future__ import annotations

import pytest
import torch

from trainctl.errors import ConfigError
from trainctl.training.failures import as_told

_ASSERTED = (
    "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia.com/"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(_ASSERTED), "device-side assert"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            "enough memory",
        ),
        (MemoryError(), "enough memory"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000"
                " bytes. Error code 12"
            ),
            "enough memory: 8 MB more",
        ),
    ],
)
def test_what_a_device_says_is_no_internal_error(error: Exception, said: str) -> None:
    told = as_told(error, "writing the run")
    assert isinstance(told, ConfigError)
    assert said in str(told)
    assert told.problems[0].remedy
    assert "internal" not in str(told)
