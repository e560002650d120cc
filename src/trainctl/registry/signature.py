"""A component's signature is its schema: read it from source without importing, or from the live object.

Reading from source keeps ``trainctl ls`` and every check of the config free of torch; a test holds the two
readings equal for all components that ship with trainctl.
"""

from __future__ import annotations

import ast
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainctl.registry.constraints import NAMES

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One argument: its name, its type (``Any`` when nothing is known) and its default or ``REQUIRED``."""

    name: str
    annotation: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True)
class Signature:
    """The arguments of a component, in order, and its docstring."""

    parameters: tuple[Parameter, ...]
    doc: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().partition("\n")[0]


def _typed(name: str, annotation: Any, default: Any) -> Parameter:
    if annotation is REQUIRED:
        # Without an annotation the default's type is the only statement the author made.
        annotation = Any if default is REQUIRED or default is None else type(default)
    return Parameter(name, annotation, default)


@functools.cache  # a sweep checks each of its jobs
def from_source(path: Path, name: str) -> Signature:
    """Read the definition that is called ``name``, or registered as it, in ``path`` without importing it.

    Raises LookupError when the file has no such definition.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and name in (node.name, *_registered_names(node)):
            function = _constructor(node) if isinstance(node, ast.ClassDef) else node
            parameters = _read_arguments(function) if function else []
            return Signature(tuple(parameters), inspect.cleandoc(ast.get_docstring(node) or ""))
    raise LookupError(f"{path} does not define {name!r}")


def _registered_names(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    calls = [call for call in node.decorator_list if isinstance(call, ast.Call)]
    return [
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "register"
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    ]


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    methods = (item for item in node.body if isinstance(item, ast.FunctionDef))
    return next((method for method in methods if method.name == "__init__"), None)


def _read_arguments(function: ast.FunctionDef) -> list[Parameter]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = list(zip(positional, [*defaults, *arguments.defaults], strict=True))
    pairs += list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    if function.name == "__init__":
        pairs = pairs[1:]
    return [
        _typed(
            argument.arg,
            _evaluate_annotation(argument.annotation),
            REQUIRED if default is None else ast.literal_eval(default),
        )
        for argument, default in pairs
    ]


def _evaluate_annotation(node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        # `float | Tensor`: of a union, what a config can hold is what counts.
        sides = [_evaluate_annotation(side) for side in (node.left, node.right)]
        known = [side for side in sides if side is not Any]
        return known[0] | known[1] if len(known) == 2 else known[0] if known else Any
    try:
        code = compile(ast.Expression(node), "<annotation>", "eval")
        return eval(code, {"__builtins__": {}}, dict(NAMES))
    except (NameError, AttributeError, TypeError):
        return Any


def from_object(component: Callable[..., Any], wraps: Callable[..., Any] | None = None) -> Signature:
    """Read a live class or function.

    Behind ``**kwargs`` the wrapped target counts: for a class the next constructor of its method resolution
    order, for a function ``wraps``. Without a target nothing hides behind ``**kwargs``: such arguments are
    refused as unknown.
    """
    parameters: dict[str, Parameter] = {}
    for function in _constructors(component) if inspect.isclass(component) else [component]:
        open_ended = _merge(parameters, function, skip_first=inspect.isclass(component))
        if not open_ended:
            break
    else:
        if wraps is not None:
            for parameter in from_object(wraps).parameters:
                parameters.setdefault(parameter.name, parameter)
    return Signature(tuple(parameters.values()), inspect.getdoc(component) or "")


def _constructors(component: type) -> list[Callable[..., Any]]:
    own = [cls.__dict__["__init__"] for cls in component.__mro__ if "__init__" in cls.__dict__]
    # torch's Module and Python's object take *args, **kwargs only to complain about them.
    empty = ("torch.nn.modules.module", None)
    return [init for init in own if getattr(init, "__module__", None) not in empty]


def _merge(parameters: dict[str, Parameter], function: Callable[..., Any], *, skip_first: bool) -> bool:
    """Add the parameters of ``function``; True when it also takes ``**kwargs``."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    members = list(inspect.signature(function).parameters.values())
    open_ended = False
    for member in members[1:] if skip_first else members:
        if member.kind is member.VAR_KEYWORD:
            open_ended = True
        elif member.kind is not member.VAR_POSITIONAL:
            annotation = hints.get(member.name, REQUIRED)
            parameters.setdefault(member.name, _typed(member.name, annotation, member.default))
    return open_ended
