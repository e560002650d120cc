"""A user's own components: modules and files named in the config, and installed entry points."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.metadata import entry_points
from pathlib import Path

from trainctl.errors import ConfigError, TrainctlError, UnsafeInputError

ENTRY_POINTS = "trainctl.plugins"
_loaded: dict[str, Path | None] = {}
_MOST_LINES, _WIDTH = 12, 100
_MOST_FILES, _LARGEST_FILE = 200, 2**20
_INSTALLED = ("site-packages", "dist-packages")
# In the order in which Python looks for them in a folder.
_LOADERS: tuple[tuple[type, list[str]], ...] = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)


def load(plugins: Iterable[str]) -> list[dict[str, str]]:
    """Import every plugin, and every installed one; each registers its components.

    ``my_package.models`` is a module (also one in the current directory), ``FOLDER/my_package.models`` one
    of that folder, ``./my_model.py`` a file. Returns name, path and SHA-256 of each of ``plugins``, the name
    as :func:`absolute` has it. Raises ConfigError naming the one that cannot be imported, UnsafeInputError
    where Python would import another file than the one of that folder.
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
    """Raise UnsafeInputError where a plugin of a stored run is not the file that the run was made with.

    What has changed is shown where an entry has the ``source`` of that time.
    """
    known = {entry["name"]: entry for entry in stored}
    for plugin in plugins:
        entry = known.get(_key(plugin)) or known.get(plugin)
        if entry is None or not _is_unchanged(plugin, entry):
            raise UnsafeInputError(
                f"plugins: {plugin} is not the file that this run was made with{_changes(plugin, entry)}",
                "if you trust it, say so with --trust-plugins (trust_plugins=True in Python)",
            )


def _changes(plugin: str, entry: Mapping[str, str] | None) -> str:
    """What is different now, as the end of a message; some lines of it."""
    found = _find(plugin)
    if entry is None or found is None:
        return ""
    if not found.is_file():
        return f": {found} is not there"
    if found.resolve() != Path(entry["path"]).resolve():
        return f", which is {entry['path']}"
    then, now = entry.get("source", "").splitlines(), found.read_text(errors="replace").splitlines()
    lines = [*difflib.unified_diff(then, now, n=0, lineterm="")][2:]  # without the names of the files
    if not then or not lines:
        return ": it was changed"
    more = [f"… and {len(lines) - _MOST_LINES} more lines"] if len(lines) > _MOST_LINES else []
    shown = "".join(f"\n         {line[:_WIDTH]}" for line in [*lines[:_MOST_LINES], *more])
    return f": it was changed{shown}"


def _is_unchanged(plugin: str, entry: Mapping[str, str]) -> bool:
    """Whether what would be imported, in this folder and by this process, is the recorded file as it was."""
    path, found = Path(entry["path"]), _find(plugin)
    return (
        found is not None
        and path.is_file()
        and found.resolve() == path.resolve()
        and digest(path) == entry["sha256"]
    )


def absolute(plugin: str) -> str:
    """``plugin`` in a form that every folder understands: the path of a file, FOLDER/my_package.models.

    An installed module keeps its plain name: it is found from everywhere, and may be installed somewhere else
    tomorrow. So does one that is not found.
    """
    if _is_file(plugin):
        return str(Path(plugin).expanduser().absolute())
    folder, name = _split(plugin)
    if folder is None:
        folder = _folder_of(name)
    return name if folder is None else f"{folder}/{name}"


def hint(name: str, word: str) -> str:
    """How to choose a component of one's own that no plugin has registered: the start of a remedy.

    The files of the current folder are searched for its registration as text; none is imported. ``word``
    chooses it.
    """
    wanted = re.compile(rf"\.register\(\s*['\"]{re.escape(name)}['\"]")
    for path in sorted(Path().glob("*.py"))[:_MOST_FILES]:
        with contextlib.suppress(OSError):
            if path.stat().st_size <= _LARGEST_FILE and wanted.search(path.read_text(errors="replace")):
                return f"{path} registers it: type 'plugins=[./{path}]' {word}; "
    return f"if it is your own: plugins=[./FILE.py] {word}, or name the file in conf/local.yaml; "


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
    return str(Path(plugin).expanduser().resolve()) if _is_file(plugin) else absolute(plugin)


def _once(label: str, plugin: str) -> Path | None:
    key = _key(plugin)
    if key not in _loaded:
        try:
            _loaded[key] = _import_file(Path(key)) if _is_file(plugin) else _import_module(key)
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
    _execute(spec)
    return path


def _import_module(plugin: str) -> Path | None:
    folder, name = _split(plugin)
    with _searched(folder):
        if folder is not None:
            _import_from(folder, name)
        module = importlib.import_module(name)
    return Path(module.__file__).absolute() if module.__file__ else None


def _import_from(folder: Path, name: str) -> None:
    """Import the module of ``folder`` and the packages around it, whatever else has their names."""
    specs = _locate(folder, name)
    if not specs:
        raise ConfigError(
            f"plugins: there is no module {name} in {folder}",
            "./my_model.py is a file, FOLDER/my_package.models a module of a folder",
        )
    for spec in specs:
        package, _, _ = spec.name.rpartition(".")
        if not package and spec.name not in sys.modules:
            # Python would look for it in all of its path; what is in it is then looked for in it.
            _execute(spec)
            continue
        # What is around it is imported by now, so that this executes nothing.
        found = _known_spec(spec.name)
        if found is None or not _is_same(found, spec):
            where = found.origin if found is not None and found.origin else "one of another folder"
            raise UnsafeInputError(
                f"plugins: {spec.name} of {folder} cannot be imported beside {where}",
                "give it a name of its own, or use each in a process of its own",
            )
        importlib.import_module(spec.name)


def _execute(spec: ModuleSpec) -> None:
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        if spec.loader is not None:  # a package without __init__.py has none
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise


def _is_same(one: ModuleSpec, other: ModuleSpec) -> bool:
    if one.origin is None or other.origin is None:  # a package without __init__.py is its folders
        own = {str(Path(each).resolve()) for each in one.submodule_search_locations or ()}
        return any(str(Path(each).resolve()) in own for each in other.submodule_search_locations or ())
    return Path(one.origin).resolve() == Path(other.origin).resolve()


@contextlib.contextmanager
def _searched(folder: Path | None) -> Iterator[None]:
    """Have modules looked for in ``folder``, too, without one in the current directory.

    An installed program's path lacks the current directory; people expect it for their own code. Last, so
    that a file of theirs does not take the place of a library's in what the plugin imports.
    """
    place = str(folder or Path.cwd())
    added = place not in sys.path
    if added:
        sys.path.append(place)
    try:
        yield
    finally:
        if added:
            with contextlib.suppress(ValueError):  # a plugin may have changed the path
                sys.path.remove(place)


# ------------------------------------------------------------------ where it lies, with nothing executed


def _split(plugin: str) -> tuple[Path | None, str]:
    """The folder, where the plugin says one, and the module's dotted name."""
    folder, slash, name = plugin.rpartition("/")
    return (Path(folder or "/").expanduser().resolve() if slash else None), name


def _find(plugin: str) -> Path | None:
    """The file that a plugin is."""
    if _is_file(plugin):
        return Path(_key(plugin))
    folder, name = _split(plugin)
    with _searched(folder):
        specs = _locate(folder, name)
    return Path(specs[-1].origin) if specs and specs[-1].origin else None


def _folder_of(name: str) -> Path | None:
    """The folder in which the module's outermost package lies; None where it is installed, or not found."""
    found = _find(name)
    if found is None or not found.is_file() or set(_INSTALLED) & set(found.parts):
        return None
    stem = found.name.partition(".")[0]
    place = found.parent if stem == "__init__" else found.parent / stem
    parts = name.split(".")
    # An import hook may give a package another name than its folder's.
    return place.parents[len(parts) - 1] if list(place.parts[-len(parts) :]) == parts else None


def _locate(folder: Path | None, name: str) -> list[ModuleSpec]:
    """What the packages around a module, outermost first, and the module are; empty where it is not there.

    ``importlib.util.find_spec`` would import the packages.
    """
    parts, specs = name.split("."), []
    places = None if folder is None else [str(folder)]
    for count in range(1, len(parts) + 1):
        whole = ".".join(parts[:count])
        spec = _known_spec(whole) if places is None else _in_places(whole, places)
        if spec is None:
            return []
        specs.append(spec)
        places = list(spec.submodule_search_locations or ())
    return specs


def _known_spec(name: str) -> ModuleSpec | None:
    """What Python would import, or has imported, under ``name``; its packages are imported."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # no package, no name, or a module that does not say where it came from
        return None


def _in_places(name: str, places: Sequence[str]) -> ModuleSpec | None:
    portions: list[str] = []
    for place in places:
        # A new one: those that Python keeps may not have seen a file that has just come.
        spec = FileFinder(place, *_LOADERS).find_spec(name)
        if spec is not None and spec.loader is not None:
            return spec
        if spec is not None:
            portions += spec.submodule_search_locations or ()
    if not portions:
        return None
    package = ModuleSpec(name, None, is_package=True)
    package.submodule_search_locations = portions
    return package


def _line_in(error: BaseException, path: str) -> str:
    place = _last_place(error, {path})
    if isinstance(error, SyntaxError) or place is None:  # a SyntaxError's text has the line
        return ""
    return f" (line {place[1]})"
