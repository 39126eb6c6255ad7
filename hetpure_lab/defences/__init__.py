"""Everything that can stand in front of a classifier, by name."""

from hetpure_lab.defences.interface import Defended, Undefended
from hetpure_lab.defences.registry import DEFENCES, METHODS, RIVALS, TRAINED, assemble, build, networks, published

__all__ = ["DEFENCES", "METHODS", "RIVALS", "TRAINED", "Defended", "Undefended", "assemble", "build", "networks", "published"]
