"""Show this help."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from trainctl.errors import ConfigError

_TEXT = """\
trainctl trains PyTorch models: the plain training loop, set up by config.

  trainctl [KEY=VALUE …]                       train once
  trainctl -m KEY=VALUE,VALUE …                train every combination (a sweep)
  trainctl VERB …                              one of the commands below

commands
{verbs}

settings
  model=mlp optim=adam lr=1e-3                 components and learning rate: trainctl ls lists them
  dataset=mnist dataset.root=~/data            dataset and its folder
  epochs=10 batch_size=128 seed=1              length of the training, batch size, random seed
  model.hidden=[256,128] model.dropout=0.2     arguments of a component: trainctl ls model=mlp
  experiment=mnist_mlp                         a complete recipe: trainctl ls experiment
  device=cuda threads=1 deterministic=true     device, CPU threads, the same result bit for bit
  hydra.run.dir=DIR                            run directory (default: outputs/<date>/<time>)

options
  -m, --multirun          train every combination of the comma-separated values
  --cfg job|hydra|all     show the composed config and stop
  --config-dir DIR        one more folder of configs (./conf is found by itself)
  --info [all|defaults|…] how the config is composed
  -sc install=bash        print shell completion: eval "$(trainctl -sc install=bash)"
  --version, --help, --hydra-help

exit codes
  0 done · 1 failed jobs, failed smoke, a difference, or an internal error · 2 usage, config or shapes
  3 unsafe input · 4 no usable checkpoint · 5 disk or I/O · 6 loss not finite · 7 run directory taken
  8 data worker failed · 130 interrupted · 143 terminated.  TRAINCTL_DEBUG=1 shows the traceback of an error.
"""


def verbs() -> dict[str, str]:
    """The verbs and the first line of each one's docstring, read from the files of this folder."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    return {name: doc.partition("\n")[0] for name, doc in docs.items()}


def run(arguments: Sequence[str]) -> int:
    """``trainctl help``."""
    if arguments:
        raise ConfigError(
            f"help takes no arguments: {' '.join(arguments)}", "trainctl ls GROUP=OPTION explains one"
        )
    lines = "\n".join(f"  {name:<12} {text}" for name, text in verbs().items())
    print(_TEXT.format(verbs=lines), end="")
    return 0
