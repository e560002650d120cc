"""The types of settings and component arguments, those with a range too, and their description.

A component annotates an argument with one of these; a value outside the range is refused before anything is
built, with the range in the message. Plain ``int``, ``float``, ``str``, ``bool``, ``list[...]``,
``tuple[...]``, ``Literal[...]`` and unions of them serve where there is no range; NaN and infinity are
always refused.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

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
"""The names that an annotation may use to be readable without importing the component's module."""


def some(names: Sequence[str], most: int = 12) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def show(value: Any) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


_TYPES: dict[Any, str] = {
    type(None): "null",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
    Any: "any value",
}


def describe(annotation: Any) -> str:
    """A type and its range in words: ``Count`` is "a whole number of at least 1"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [text for item in arguments[1:] for text in _bound(item)]
        return " ".join([describe(arguments[0]), " and ".join(bounds)]).strip()
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(show, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is list:
        return f"a list in which each item is {describe(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    return _TYPES.get(origin or annotation) or str(getattr(annotation, "__name__", annotation))


def _bound(item: Any) -> list[str]:
    match item:
        case Ge(ge=bound):
            return [f"of at least {bound}"]
        case Gt(gt=bound):
            return [f"greater than {bound}"]
        case Lt(lt=bound):
            return [f"below {'2**63' if bound == 2**63 else bound}"]
        case Le(le=bound):
            return [f"of at most {bound}"]
    return []
