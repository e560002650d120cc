"""What of Hydra changes with versions, of Hydra and of Python."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from trainctl.config.hydra_internals import argument_parser


def test_the_parser_is_made_where_argparse_looks_into_help_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_into: list[str] = []

    def check(parser: argparse.ArgumentParser, action: Any) -> None:
        """As Python 3.14 does."""
        assert "%" not in action.help or action.help % vars(action)
        looked_into.append(action.help)

    monkeypatch.setattr(argparse._ActionsContainer, "_check_help", check, raising=False)
    monkeypatch.setattr(
        argparse._ActionsContainer,
        "_add_action",
        lambda parser, action, add=argparse._ActionsContainer._add_action: (
            parser._check_help(action) or add(parser, action)
        ),
    )
    options = argument_parser().parse_args(["--cfg", "job", "a=1"])
    assert (options.cfg, options.overrides, looked_into) == ("job", ["a=1"], [])
    argparse.ArgumentParser(add_help=False).add_argument("--one", help="checked again")
    assert set(looked_into) == {"checked again"}
