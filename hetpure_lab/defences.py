"""What stands in front of a bench's classifier in an experiment, by name."""

from __future__ import annotations

from hetpure_core import HetPure, Purified, Uniform
from hetpure_lab import specs
from hetpure_lab.attacks import Undefended
from hetpure_lab.benches import Bench, network_name

DEFENCES = {"none": None, "uniform": Uniform, "hetpure": HetPure}


def build(text: str, bench: Bench) -> Purified | Undefended:
    """The defence that `text` names, such as ``hetpure:tau=0.5``, with the networks of `bench`."""
    _, purifier = specs.parse(text, DEFENCES)
    if purifier is None:
        return Undefended(bench.classifier)
    return Purified(bench.classifier, bench.denoiser, purifier, schedule=bench.schedule)


def networks(text: str, bench: str) -> list[str]:
    """The names of the weights that the defence uses on `bench`."""
    parts = ("classifier",) if specs.parse(text, DEFENCES)[1] is None else ("classifier", "denoiser")
    return [network_name(bench, part) for part in parts]
