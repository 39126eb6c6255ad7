"""Everything that can stand in front of a classifier, by name; every module of this package is
imported, and registers what it has.
"""

from importlib import import_module
from pkgutil import iter_modules

from hetpure_lab.defences.interface import (
    DEFENCES,
    METHODS,
    RIVALS,
    TRAINED,
    Capabilities,
    Defended,
    Undefended,
    capabilities,
    register,
    votes,
)
from hetpure_lab.defences.registry import assemble, build, networks, of, published

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "DEFENCES",
    "METHODS",
    "RIVALS",
    "TRAINED",
    "Capabilities",
    "Defended",
    "Undefended",
    "assemble",
    "build",
    "capabilities",
    "networks",
    "of",
    "published",
    "register",
    "votes",
]
