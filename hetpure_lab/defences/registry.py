"""What stands in front of a bench's classifier in an experiment, by name."""

from __future__ import annotations

from torch import nn

from hetpure_core import HetPure, Purified, Uniform
from hetpure_lab.common import specs
from hetpure_lab.defences import guided, rivals
from hetpure_lab.defences.interface import Undefended
from hetpure_lab.defences.noise_map import NoiseMap, OneLevel, PerPixel
from hetpure_lab.defences.trained import AdversarialTraining, AToP, Behind, MENet, PixelDefend, Trained
from hetpure_lab.networks.benches import Bench, network_name

METHODS = {"uniform": Uniform, "hetpure": HetPure, "equal-energy": rivals.EqualEnergy, "image-gradient": rivals.ImageGradient}
RIVALS = {
    "sde": rivals.ReverseSDE,
    "ode": rivals.ProbabilityFlow,
    "gradual": rivals.Gradual,
    "gdmp": guided.GDMP,
    "mimic": guided.MimicDiffusion,
    "contrastive": guided.Contrastive,
    "lorid": rivals.LoRID,
    "densepure": rivals.DensePure,
    "adp": rivals.ADP,
    "langevin": rivals.Langevin,
    "freqpure": rivals.FreqPure,
    "diffap": rivals.RandomSampling,
    "ssni": rivals.SSNI,
    "scoreopt": guided.ScoreOpt,
    "pursamere": guided.SharpnessAware,
}
MAPPED = {"noise-map": NoiseMap, "noise-map-untold": OneLevel, "per-pixel": PerPixel}
TRAINED = {"at": AdversarialTraining, "me-net": MENet, "pixeldefend": PixelDefend, "atop": AToP}
DEFENCES = {"none": None} | METHODS | RIVALS | TRAINED | MAPPED


def build(text: str, bench: Bench) -> Purified | Undefended | Behind:
    """The defence that `text` names, such as ``hetpure:tau=0.5``, with the networks of `bench`."""
    _, purifier = specs.parse(text, DEFENCES)
    if purifier is None:
        return Undefended(bench.classifier)
    if isinstance(purifier, Trained):
        return purifier.defend(bench)
    return assemble(purifier, bench.classifier, bench.denoiser, bench.defended, schedule=bench.schedule)


def assemble(purifier, classifier: nn.Module, denoiser: nn.Module, kind: type[Purified] = Purified, **options) -> Purified:
    """The classifier behind a purifier, with the votes that the purifier prescribes; one that consults the classifier is given it."""
    if getattr(purifier, "needs_maps", False) and not getattr(denoiser, "takes_maps", False):
        kind = type(denoiser).__name__
        raise ValueError(f"{type(purifier).__name__} needs a denoiser that takes a noise level per pixel, and {kind} takes one per image")
    votes = getattr(purifier, "votes", 1)
    if isinstance(purifier, guided.Contrastive):
        purifier = purifier.seeing(classifier)
    return kind(classifier, denoiser, purifier, votes=votes, **options)


def published(slug: str) -> str:
    """The spec of the chain that a rival's authors ran, if its default is a shorter one, or ""."""
    settings = getattr(RIVALS.get(slug), "published", {})
    return specs.describe(RIVALS[slug](**settings), DEFENCES) if settings else ""


def networks(text: str, bench: str) -> list[str]:
    """The names of the weights that the defence uses on `bench`."""
    purifier = specs.parse(text, DEFENCES)[1]
    if isinstance(purifier, Trained):
        return purifier.weights(bench)
    parts = ("classifier",) if purifier is None else ("classifier", "denoiser")
    return [network_name(bench, part) for part in parts]
