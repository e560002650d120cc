"""From command-line words and YAML files to one checked config, by Hydra and OmegaConf.

The only place, beside ``cli`` and ``sweep``, that knows Hydra.
"""

from trainctl.compose._composer import (
    COMPOSITION_ERRORS,
    Composed,
    Composer,
    check_tree,
    run_directory,
    without_hydra,
)
from trainctl.compose._explain import explained
from trainctl.compose._stored import read_config, stored_files

__all__ = [
    "COMPOSITION_ERRORS",
    "Composed",
    "Composer",
    "check_tree",
    "explained",
    "read_config",
    "run_directory",
    "stored_files",
    "without_hydra",
]
