"""Modules: functions of tensors that list their parameters and the modules inside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from trainctl.lessons.scratch.hooks import Hook, Hooks, RemovableHandle

M = TypeVar("M", bound="Module")


class IncompatibleKeys(NamedTuple):
    """The names that a state lacks, and those that the module does not have."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A function of tensors, with parameters and with modules inside it (its children).

    A subclass calls ``super().__init__()``, sets attributes and defines ``forward``:

        class Affine(Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = torch.ones(1, requires_grad=True)  # a parameter
                self.inner = Linear(3, 2)                       # a child

            def forward(self, inputs: Tensor) -> Tensor:
                return self.scale * self.inner(inputs)

    Setting an attribute registers it: a leaf tensor that requires a gradient as a parameter, a Module as a
    child. A parameter that is frozen afterwards (``requires_grad_(False)``) stays one. Any other tensor is an
    ordinary attribute, which ``to`` does not move and ``state_dict`` does not hold.

    Attributes:
        training: True after ``train()``, False after ``eval()``; layers such as Dropout read it.
    """

    training: bool
    _parameters: dict[str, Tensor]
    _children: dict[str, Module]
    _forward_hooks: Hooks

    def __init__(self) -> None:
        # Python's __setattr__: the one below needs these dictionaries.
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_children", {})
        self._forward_hooks = Hooks()
        self.training = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, and register it if it is a parameter or a child.

        Raises AttributeError before ``Module.__init__`` has run.
        """
        if "_parameters" not in vars(self):
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")
        known = self._parameters.get(name)
        is_parameter = isinstance(value, Tensor) and value.is_leaf and (value.requires_grad or value is known)
        _note(self._parameters, name, value, is_parameter)
        _note(self._children, name, value, isinstance(value, Module))
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._parameters.pop(name, None)
        self._children.pop(name, None)

    def add_module(self, name: str, module: Module) -> None:
        """Set a child whose name is not an identifier, such as ``0``. TypeError unless it is a Module."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__module__}.{type(module).__qualname__} is not a scratch Module")
        setattr(self, name, module)

    # ------------------------------------------------------------------ calling

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        """The module's function. Raises NotImplementedError unless a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """``forward``, then the hooks: a hook's result replaces the outputs, unless it is None."""
        outputs = self.forward(*inputs, **settings)
        for hook in self._forward_hooks:
            replaced = hook(self, inputs, outputs)
            if replaced is not None:
                outputs = replaced
        return outputs

    def register_forward_hook(self, hook: Hook) -> RemovableHandle:
        """Have ``hook(module, inputs, outputs)`` called after each call, ``inputs`` being a tuple."""
        return self._forward_hooks.add(hook)

    # ------------------------------------------------------------------ parameters and children

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside this one, in the order in which they were set."""
        yield from self._children.items()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters with their dotted names, such as ``layers.0.weight``; own ones first.

        A tensor that several modules share comes once, with its first name: an optimizer would update it
        twice otherwise.
        """
        seen: set[int] = set()
        for name, parameter in self._all_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self) -> Iterator[Tensor]:
        """All parameters, each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def _all_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every name of every parameter; a shared one has several."""
        for name, parameter in self._parameters.items():
            yield prefix + name, parameter
        for name, child in self._children.items():
            yield from child._all_parameters(f"{prefix}{name}.")

    # ------------------------------------------------------------------ mode and device

    def train(self: M, mode: bool = True) -> M:
        """Set ``training`` here and in all modules inside; returns this module."""
        self.training = mode
        for child in self._children.values():
            child.train(mode)
        return self

    def eval(self: M) -> M:
        """``train(False)``."""
        return self.train(False)

    def to(self: M, device: torch.device | str) -> M:
        """Move all parameters and their gradients to ``device``; returns this module.

        The tensors stay the same objects with new contents, so an optimizer keeps updating them.
        """
        for parameter in self.parameters():
            gradient = parameter.grad
            parameter.data = parameter.data.to(device)
            parameter.grad = None if gradient is None else gradient.to(device)
        return self

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters' values by name, detached. They share the parameters' memory: copy to keep them."""
        return {name: parameter.detach() for name, parameter in self._all_parameters()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> IncompatibleKeys:
        """Copy the values of ``state_dict`` into the parameters, in place.

        Raises RuntimeError, and copies nothing, if shapes differ or, with ``strict``, if names are missing or
        unexpected; without ``strict`` it returns those names.
        """
        own = dict(self._all_parameters())
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        common = [name for name in own if name in state_dict]
        problems = [
            f"size mismatch for {name}: copying a param with shape {state_dict[name].shape} from checkpoint,"
            f" the shape in current model is {own[name].shape}."
            for name in common
            if state_dict[name].shape != own[name].shape
        ]
        if strict and unexpected:
            problems.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}.")
        if strict and missing:
            problems.append(f"Missing key(s) in state_dict: {_quoted(missing)}.")
        if problems:
            raise RuntimeError(
                "\n\t".join([f"Error(s) in loading state_dict for {type(self).__name__}:", *problems])
            )
        with torch.no_grad():
            for name in common:
                own[name].copy_(state_dict[name])
        return IncompatibleKeys(missing, unexpected)

    # ------------------------------------------------------------------ text

    def extra_repr(self) -> str:
        """The text between the parentheses: the shapes of the module's own parameters."""
        return ", ".join(f"{name}={tuple(each.shape)}" for name, each in self._parameters.items())

    def __repr__(self) -> str:
        """The module and those inside it, one a line and indented, as torch prints them."""
        own = self.extra_repr()
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self._children.items()]
        if lines:
            own = "\n  " + "\n  ".join([*([own] if own else []), *lines]) + "\n"
        return f"{type(self).__name__}({own})"


def _note(known: dict[str, Any], name: str, value: Any, belongs: bool) -> None:
    # Setting a name again keeps its place, so parameters keep their order.
    if belongs:
        known[name] = value
    else:
        known.pop(name, None)


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


class ModuleList(Module):
    """Modules in a list, children named ``0``, ``1`` and so on; a Python list would not register them."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add a module at the end. Raises TypeError unless it is a Module."""
        self.add_module(str(len(self)), module)

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._children.values())

    def __getitem__(self, number: int) -> Module:
        return list(self._children.values())[number]


class Sequential(ModuleList):
    """Modules called one after the other, each with the outputs of the one before."""

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    def forward(self, inputs: Any) -> Any:
        for module in self:
            inputs = module(inputs)
        return inputs
