"""Heterogeneous adversarial purification, executable: benches, defences, attacks, evidence.

    import hetpure_lab as hp

`load_bench`, `load_images`, `defend`, `attack`, `evaluate`, `compare`, `audit`, and the lists
`defences`, `attacks`, `benches` are all that most need; their help is in `hetpure_lab.public`.
They are imported when first used, so that ``import hetpure_lab`` is quick and needs no torch.
"""

# pandas ships no types.
# pyright: strict, reportUnknownVariableType=false

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetpure_lab.public import (
        attack,
        audit,
        benches,
        compare,
        defend,
        evaluate,
        load_bench,
        load_images,
    )

try:
    __version__ = version("hetpure")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

__all__ = [
    "__version__",
    "attack",
    "attacks",  # pyright: ignore[reportUnsupportedDunderAll] (a package that can be called)
    "audit",
    "benches",
    "compare",
    "defences",  # pyright: ignore[reportUnsupportedDunderAll] (a package that can be called)
    "defend",
    "evaluate",
    "load_bench",
    "load_images",
]

PUBLIC = frozenset(__all__) - {"__version__"}
ROOMS = frozenset({"attacks", "audit", "defences"})  # names of packages, too


class _Room(ModuleType):
    """A package whose name is also one of the public functions: it can be called."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module("hetpure_lab.public"), name)(*args, **options)


class _House(ModuleType):
    """This package: public names come from `public` when first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in ROOMS:
            return import_module(f"hetpure_lab.{name}")
        if name in PUBLIC:
            return getattr(import_module("hetpure_lab.public"), name)
        raise AttributeError(f"module 'hetpure_lab' has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ROOMS and type(value) is ModuleType:
            value.__class__ = _Room
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *PUBLIC})


sys.modules[__name__].__class__ = _House
