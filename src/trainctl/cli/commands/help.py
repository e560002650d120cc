"""Show the help of trainctl, or the page of one command."""

from __future__ import annotations

from collections.abc import Sequence

from trainctl.cli.commands import declaration, verbs
from trainctl.cli.options import CONFIG, OVERRIDES, Argument, Command, Option
from trainctl.cli.pages import EXIT_CODES, columns, detail, exit_codes, label, page

COMMAND = Command(
    __name__,
    __doc__,
    (Argument("VERB", "one of the commands", least=0),),
    examples=(
        ("All commands, settings and options.", "trainctl help"),
        ("The same as trainctl resume --help.", "trainctl help resume"),
    ),
)
TRAIN = Command(
    "trainctl",
    "",
    (OVERRIDES,),
    (
        Option("--multirun", "train every combination of the comma-separated values", short="-m"),
        Option("--cfg", "show the composed config and stop", choices=("job", "hydra", "all"), short="-c"),
        Option("--resolve", "with --cfg: the values of ${…} in their place"),
        Option("--package", "with --cfg: one part of the config", value="KEY", short="-p"),
        *CONFIG,
        Option(
            "--info",
            "how the config is composed",
            choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
            short="-i",
        ),
        Option(
            "--shell-completion",
            'print a script: eval "$(trainctl -sc install=bash)"',
            "install=bash|zsh|fish",
            choices=("install=bash", "install=zsh", "install=fish"),
            short="-sc",
        ),
        Option("--version", "show the version"),
        Option("--help", "show this page; after a command, the command's own", short="-h"),
        Option("--hydra-help", "show the help of Hydra"),
    ),
)
"""What goes without a verb; Hydra parses it."""

_SETTINGS = (
    ("model=mlp optim=adam lr=1e-3", "components, learning rate: trainctl ls"),
    ("dataset=mnist dataset.root=~/data", "dataset and its folder"),
    ("epochs=10 batch_size=128 seed=1", "length, batch size, random seed"),
    ("model.hidden=[256,128]", "arguments of a part: trainctl ls model=mlp"),
    ("experiment=mnist_mlp", "a whole recipe: trainctl ls experiment"),
    ("device=cuda devices=2 threads=1", "device, how many, CPU threads"),
    ("name=first hydra.run.dir=DIR", "name and directory of the run"),
)
_TEXT = """\
trainctl trains PyTorch models: the plain training loop, set up by config.

  trainctl [KEY=VALUE …]             train once
  trainctl -m KEY=VALUE,VALUE …      train every combination (a sweep)
  trainctl VERB …                    one of these commands
  trainctl VERB --help               what a command takes

commands
{verbs}

settings
{settings}

options
{options}

exit codes
{codes}

TRAINCTL_DEBUG=1 shows the traceback of an error.
"""


def run(words: Sequence[str]) -> int:
    """Print a page of 80 columns. Raises ConfigError for a command that does not exist."""
    asked = COMMAND.parse(words)
    if asked.words:
        print(page(declaration(asked.words[0])), end="")
        return 0
    failed = {1: "failed jobs, a failed check, or an internal error"}
    text = _TEXT.format(
        verbs=columns(verbs().items(), 12),
        settings=columns(_SETTINGS, 37),
        options=columns([(label(option), detail(option)) for option in TRAIN.options]),
        codes=exit_codes(EXIT_CODES | failed),
    )
    print(text, end="")
    return 0
