"""A user's own components: modules and files named in the config, and installed entry points."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from trainctl.errors import ConfigError, TrainctlError, UnsafeInputError

ENTRY_POINTS = "trainctl.plugins"
_loaded: dict[str, Path | None] = {}


def load(plugins: Iterable[str]) -> list[dict[str, str]]:
    """Import every plugin, and every installed one; each registers its components.

    ``my_package.models`` is a module (also one in the current directory), ``./my_model.py`` a file. Returns
    name, path and SHA-256 of each of ``plugins``. Raises ConfigError naming the one that cannot be imported.
    """
    for name, module in _installed(tuple(sys.path)):
        _once(f"entry point {name}", module)
    stored = []
    for plugin in plugins:
        path = _once(plugin, plugin)
        if path is not None:
            stored.append({"name": _key(plugin), "path": str(path), "sha256": digest(path)})
    return stored


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Name and module of each installed plugin. Looking through all that is installed takes 5 ms and more."""
    entries = entry_points(group=ENTRY_POINTS)
    return tuple((entry.name, entry.value.partition(":")[0]) for entry in entries)


def refuse_changed(plugins: Iterable[str], stored: Sequence[Mapping[str, str]]) -> None:
    """Raise UnsafeInputError where a plugin of a stored run is not the file that the run was made with."""
    known = {entry["name"]: entry for entry in stored}
    for plugin in plugins:
        entry = known.get(_key(plugin))
        if (
            entry is None
            or not Path(entry["path"]).is_file()
            or digest(Path(entry["path"])) != entry["sha256"]
        ):
            raise UnsafeInputError(
                f"plugins: {plugin} is not the file that this run was made with",
                "if you trust it, say so with --trust-plugins (trust_plugins=True in Python)",
            )


def blamed(error: BaseException) -> str | None:
    """The plugin file and line in which ``error`` arose, or None when no plugin had a part in it."""
    place = _last_place(error, {str(path) for path in _loaded.values() if path is not None})
    return f"{place[0]} line {place[1]}" if place else None


def _last_place(error: BaseException, files: Collection[str]) -> tuple[str, int] | None:
    """The innermost of ``files``, and its line, that the error passed through."""
    place, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename in files:
            place = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        traceback = traceback.tb_next
    return place


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _key(plugin: str) -> str:
    return str(Path(plugin).expanduser().resolve()) if _is_file(plugin) else plugin


def _once(label: str, plugin: str) -> Path | None:
    key = _key(plugin)
    if key not in _loaded:
        try:
            _loaded[key] = _import_file(Path(key)) if _is_file(plugin) else _import_module(plugin)
        except TrainctlError:
            raise
        except (Exception, SystemExit) as error:
            where = _line_in(error, key)
            raise ConfigError(
                f"plugins: {label} cannot be imported: {type(error).__name__}: {error}{where}"
            ) from error
    return _loaded[key]


def _is_file(plugin: str) -> bool:
    return plugin.endswith(".py")


def _import_file(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"plugins: {path} does not exist", "give a .py file, or a module's dotted name")
    name = f"trainctl_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return path


def _import_module(name: str) -> Path | None:
    here = str(Path.cwd())
    # An installed program's path lacks the current directory; people expect it for their own code.
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        module = importlib.import_module(name)
    finally:
        if added:
            sys.path.remove(here)
    return Path(module.__file__).resolve() if module.__file__ else None


def _line_in(error: BaseException, path: str) -> str:
    place = _last_place(error, {path})
    line = error.lineno if isinstance(error, SyntaxError) else place[1] if place else None
    return f" (line {line})" if line is not None else ""
