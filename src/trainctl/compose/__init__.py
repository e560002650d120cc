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
from trainctl.compose._jobs import compose_jobs
from trainctl.compose._stored import (
    Era,
    Stored,
    change_config,
    era_of,
    parse_config,
    read_config,
    read_eras,
    stored_files,
)
from trainctl.compose._values import base_values, parse_values, read_values

__all__ = [
    "COMPOSITION_ERRORS",
    "Composed",
    "Composer",
    "Era",
    "Stored",
    "base_values",
    "change_config",
    "check_tree",
    "compose_jobs",
    "era_of",
    "explained",
    "parse_config",
    "parse_values",
    "read_config",
    "read_eras",
    "read_values",
    "run_directory",
    "stored_files",
    "without_hydra",
]
