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

__all__ = [
    "COMPOSITION_ERRORS",
    "Composed",
    "Composer",
    "Era",
    "Stored",
    "change_config",
    "check_tree",
    "era_of",
    "explained",
    "parse_config",
    "read_config",
    "read_eras",
    "run_directory",
    "stored_files",
    "without_hydra",
]
