"""Plug-ins: modules of other people that register purifiers, attacks, benches, data sets, networks.

A plug-in is a module, by its dotted name or as the path of a file. It is named in one of three
ways: by the installed package that it comes with (entry-point group ``hetpure.plugins``), by
``--plugin MODULE`` on any command, or in ``$HETPURE_PLUGINS`` (several joined by commas), which
is also how worker processes and chapters learn of it. Its registrations are known from the first
look into any registry.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeVar

GROUP = "hetpure.plugins"
VARIABLE = "HETPURE_PLUGINS"

Result = TypeVar("Result")

_lock = threading.RLock()
_loaded: dict[str, ModuleType] = {}  # by the name it was asked for
_installed = False  # whether the entry points were looked at


class PluginError(ValueError):
    """A plug-in that is absent or cannot be imported."""


def load() -> None:
    """Import plug-ins that are installed or named and were not imported yet.

    Raises `PluginError` for a named plug-in that cannot be imported; an installed one is left out
    with a warning, so that a broken package stops nobody who does not use it.
    """
    global _installed
    with _lock:
        if not _installed:
            # first: what a plug-in reads while it registers is not looked up again
            _installed = True
            for point in entry_points(group=GROUP):
                try:
                    _loaded[point.value] = point.load()
                except Exception as error:
                    warnings.warn(f"the plug-in {point.value} is left out: {error}", stacklevel=2)
        for name in named():
            if name not in _loaded:
                _loaded[name] = _import(name)


def named() -> list[str]:
    """The plug-ins in ``$HETPURE_PLUGINS``."""
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def use(*names: str) -> None:
    """Load plug-ins by name, for this process and its children. Raises `PluginError`."""
    wanted = [str(Path(name).resolve()) if name.endswith(".py") else name for name in names]
    if bad := [name for name in wanted if "," in name]:
        raise PluginError(f"the name of a plug-in has no comma: {bad[0]!r}")
    for name in wanted:
        with _lock:
            if name not in _loaded:
                _loaded[name] = _import(name)
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*named(), *wanted]))


def using(names: Sequence[str], work: Callable[..., Result], *args: object) -> Result:
    """``work(*args)`` with plug-ins loaded, for a worker on another machine."""
    if names:
        use(*names)
    return work(*args)


def sources() -> dict[str, str]:
    """By module the sha256 of the file of every loaded plug-in: it can decide an outcome."""
    files = {module.__name__: getattr(module, "__file__", None) for module in _loaded.values()}
    return {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for name, file in files.items()
        if file
    }


def _import(name: str) -> ModuleType:
    try:
        if name.endswith(".py"):
            return _from_file(Path(name))
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # a module beside the work, as for ``python -m``
        return importlib.import_module(name)
    except PluginError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            hint = "give the name of a module that Python finds, or the path of a .py file"
            raise PluginError(f"there is no plug-in {name!r}: {hint}") from error
        raise PluginError(f"the plug-in {name!r} needs the module {missing!r}") from error
    except Exception as error:
        where = f"{type(error).__name__}: {error}"
        raise PluginError(f"the plug-in {name!r} cannot be imported: {where}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"there is no plug-in {str(path)!r}: no such file")
    if (there := sys.modules.get(path.stem)) is not None:
        if getattr(there, "__file__", None) == str(path):
            return there
        raise PluginError(f"the plug-in {path} cannot be called {path.stem!r}: that module exists")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # a dataclass looks its module up while it is made
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
