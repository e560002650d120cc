"""The types of settings and component arguments that have a range.

A component annotates an argument with one of these, and a value outside is refused before anything is
built, with the range in the message. Plain ``int``, ``float``, ``str``, ``bool``, ``list[...]``,
``tuple[...]``, ``Literal[...]`` and unions of them serve where there is no range; NaN and infinity are
never accepted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

Count = Annotated[int, Ge(1)]
"""A whole number of at least 1."""
NonNegativeInt = Annotated[int, Ge(0)]
"""A whole number of at least 0."""
Seed = Annotated[int, Ge(0), Lt(2**63)]
"""A whole number that seeds torch's generators."""
Positive = Annotated[float, Gt(0)]
"""A number greater than 0."""
NonNegative = Annotated[float, Ge(0)]
"""A number of at least 0."""
Probability = Annotated[float, Ge(0), Lt(1)]
"""A number from 0 up to, but not including, 1."""
Fraction = Annotated[float, Gt(0), Lt(1)]
"""A number between 0 and 1, both excluded."""

NAMES: dict[str, Any] = {
    "Annotated": Annotated,
    "Any": Any,
    "Count": Count,
    "Fraction": Fraction,
    "Ge": Ge,
    "Gt": Gt,
    "Literal": Literal,
    "Lt": Lt,
    "NonNegative": NonNegative,
    "NonNegativeInt": NonNegativeInt,
    "Positive": Positive,
    "Probability": Probability,
    "Seed": Seed,
    "bool": bool,
    "dict": dict,
    "float": float,
    "int": int,
    "list": list,
    "str": str,
    "tuple": tuple,
}
"""What an annotation may name and still be read without importing the component's module."""
