"""Every verb explains itself: one declaration for its help, docs/commands.md and what is refused."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trainctl.cli import pages
from trainctl.cli.commands import declaration, verbs
from trainctl.errors import ConfigError

VERBS = list(verbs())
DOCS = Path(__file__).parents[2] / "docs" / "commands.md"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_page_of_its_own(verb: str, trainctl, monkeypatch: pytest.MonkeyPatch) -> None:
    command = declaration(verb)
    outcome = trainctl(verb, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert trainctl("help", verb).out == trainctl(verb, "anything", "-h").out == outcome.out
    assert outcome.out.startswith(f"{verbs()[verb]}\n\nusage: trainctl {verb}")
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    _, _, section = DOCS.read_text().partition(f"\n## {verb}\n")
    section = section.partition("\n## ")[0]
    for option in command.options:
        assert f" {option.name} " in outcome.out
        assert f"{option.name} " in section or f"{option.name}`" in section
        assert all(
            choice in outcome.out and choice in section for choice in (*option.choices, option.default)
        )
    assert {0, 1, 2, 130, 143} <= set(pages.exits(command))
    # torchrun's environment is no reason to say nothing.
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert trainctl(verb, "--help").out == outcome.out


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_are_right(verb: str) -> None:
    command = declaration(verb)
    assert len(command.examples) == 2
    for _, line in command.examples:
        program, name, *words = shlex.split(line)
        assert (program, name) == ("trainctl", verb)
        command.parse(words)


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_option_is_told(verb: str, trainctl) -> None:
    outcome = trainctl(verb, "--hlp")
    assert outcome.code == 2
    assert f"--hlp: {verb} has no such option" in outcome.err
    assert "did you mean --" in outcome.err
    command = declaration(verb)
    for option in command.options:
        if option.is_flag:
            wrong = {f"{option.name}=x": "takes no value"}
        else:
            wrong = {option.name: f"{option.name}: needs a value", f"{option.name}=": "needs a value"}
        if option.choices:
            wrong[f"{option.name}={option.choices[0]}x"] = f"did you mean {option.choices[0]}?"
        for word, message in wrong.items():
            with pytest.raises(ConfigError) as raised:
                command.parse([word])
            assert message in " ".join((str(raised.value), raised.value.problems[0].remedy))


def test_the_help_of_all_fits_a_terminal_and_names_all(trainctl) -> None:
    outcome = trainctl("--help")
    assert outcome.code == 0
    assert trainctl("help").out == trainctl("-h", "lr=1").out == outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    for verb, sentence in verbs().items():
        assert f"  {verb:<9} {sentence}\n" in outcome.out
    for code, meaning in pages.EXIT_CODES.items():
        assert f"{code:>5}  " in outcome.out
        assert code == 1 or meaning in outcome.out


@pytest.mark.parametrize("words", [("help", "trian"), ("trian", "--help")])
def test_help_of_no_command(words: tuple[str, ...], trainctl) -> None:
    outcome = trainctl(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert "trian: there is no such command" in outcome.err
    assert "did you mean trainctl trace?" in outcome.err


def test_the_docs_say_the_same_and_need_no_torch() -> None:
    program = (
        "import sys; from trainctl.cli.pages import markdown; print(markdown(), end='');"
        "sys.exit(', '.join({'torch', 'hydra', 'omegaconf', 'pydantic', 'rich'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = DOCS.read_text()
    assert written == done.stdout, "python -m trainctl.cli.pages > docs/commands.md"
