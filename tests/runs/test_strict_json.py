"""JSON of others: what could not be used is refused when it is read."""

from __future__ import annotations

import pytest

from trainctl.errors import ConfigError
from trainctl.runs import strict_json
from trainctl.runs.record import refuse_nested_yaml


def test_plain_values_are_those_of_json() -> None:
    content = b'{"a": [1, -2.5, 1e3, true, null, NaN, "\\u00e9"], "seed": 18446744073709551615}'
    values = strict_json.parse(content)
    assert values["a"][:5] == [1, -2.5, 1000.0, True, None]
    assert values["a"][5] != values["a"][5]
    assert values["seed"] == 2**64 - 1


@pytest.mark.parametrize("content", [
    b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"[" * 101 + b"]" * 101, b'{"a":' * 200 + b"1" + b"}" * 200,
    b'{"step": 1' + b"0" * 400 + b"}", b"1" * 5000,
])  # fmt: skip
def test_what_is_no_json_or_too_much_of_it_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        strict_json.parse(content)


def test_nesting_that_trainctl_writes_is_read() -> None:
    assert strict_json.parse(b"[" * 100 + b"]" * 100)
    assert len(strict_json.parse(b"[" + b",".join([b"[1]"] * 500) + b"]")) == 500


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-" + "9" * 21, "0x" + "f" * 300, "1:" * 30 + "1"])
def test_yaml_with_a_whole_number_that_fits_nothing_is_refused(number: str) -> None:
    with pytest.raises(ConfigError, match="has a whole number of"):
        refuse_nested_yaml(f"seed: {number}\n".encode(), "config.yaml")


@pytest.mark.parametrize("text", ["'" + "1" * 40 + "'", "f" * 40, "0" * 12 + "e" * 40, "1.5" + "0" * 40])
def test_yaml_with_texts_and_fractions_of_many_digits_is_read(text: str) -> None:
    refuse_nested_yaml(f"name: {text}\n".encode(), "config.yaml")
