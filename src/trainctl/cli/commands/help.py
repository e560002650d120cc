"""Show how trainctl is used."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from trainctl.errors import ConfigError

_TEXT = """\
trainctl trains PyTorch models: the plain training loop, chosen by config.

  trainctl [KEY=VALUE …]                       train once
  trainctl -m KEY=VALUE,VALUE …                train every combination (a sweep)
  trainctl VERB …                              one of the commands below

commands
{verbs}

what people type
  model=mlp optim=adam lr=1e-3                 choose components, set the learning rate
  dataset=mnist dataset.root=~/data            other data
  epochs=10 batch_size=128 seed=1              how long, how much at once, which random numbers
  model.hidden=[256,128] model.dropout=0.2     arguments of the chosen component: trainctl ls model=mlp
  experiment=mnist_mlp                         a whole recipe: trainctl ls experiment
  device=cuda threads=1 deterministic=true     where it runs, and repeatable to the last bit
  hydra.run.dir=DIR                            where it goes (default: outputs/<date>/<time>)

options
  -m, --multirun          train every combination of the comma-separated values
  --cfg job|hydra|all     show the composed config and stop
  --config-dir DIR        one more folder with options (a ./conf is found by itself)
  --info [all|defaults|…] how the config is put together
  -sc install=bash        print shell completion: eval "$(trainctl -sc install=bash)"
  --version, --help, --hydra-help

exit codes
  0 done · 1 failed jobs, failed smoke, a difference, or an internal error · 2 usage, config or shapes
  3 unsafe input · 4 no usable checkpoint · 5 disk or I/O · 6 not finite · 7 run directory taken
  8 data worker failed · 130 interrupted · 143 terminated.  TRAINCTL_DEBUG=1 shows the traceback of an error.
"""


def verbs() -> dict[str, str]:
    """The verbs and the first line of each one's docstring, read from the files of this folder."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    return {name: doc.partition("\n")[0] for name, doc in docs.items() if name != "train"}


def run(arguments: Sequence[str]) -> int:
    """``trainctl help``."""
    if arguments:
        raise ConfigError(
            f"help takes no arguments: {' '.join(arguments)}", "trainctl ls GROUP=OPTION explains one"
        )
    lines = "\n".join(f"  {name:<12} {text}" for name, text in verbs().items())
    print(_TEXT.format(verbs=lines), end="")
    return 0
