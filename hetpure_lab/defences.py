"""What stands in front of a bench's classifier in an experiment, by name."""

from __future__ import annotations

from hetpure_core import HetPure, Purified, Uniform
from hetpure_lab import specs
from hetpure_lab.attacks import Undefended
from hetpure_lab.benches import Bench
from hetpure_lab.trained import AdversarialTraining, AToP, Behind, MENet, PixelDefend, Trained

DEFENCES = {"none": None, "uniform": Uniform, "hetpure": HetPure}
DEFENCES |= {"at": AdversarialTraining, "me-net": MENet, "pixeldefend": PixelDefend, "atop": AToP}


def build(text: str, bench: Bench) -> Purified | Undefended | Behind:
    """The defence that `text` names, such as ``hetpure:tau=0.5``, with the networks of `bench`."""
    _, purifier = specs.parse(text, DEFENCES)
    if purifier is None:
        return Undefended(bench.classifier)
    if isinstance(purifier, Trained):
        return purifier.defend(bench)
    return Purified(bench.classifier, bench.denoiser, purifier, schedule=bench.schedule)


def networks(text: str, bench: str) -> list[str]:
    """The names of the weights that the defence uses on `bench`."""
    purifier = specs.parse(text, DEFENCES)[1]
    if isinstance(purifier, Trained):
        return purifier.weights(bench)
    parts = ("classifier",) if purifier is None else ("classifier", "denoiser")
    return [f"{bench}-{part}" for part in parts]
