"""From a name to what stands in front of a bench's classifier in an experiment."""

from __future__ import annotations

from typing import Any

from torch import nn

from hetpure_core import Purified
from hetpure_lab.common import specs
from hetpure_lab.defences.interface import DEFENCES, Defended, Undefended, capabilities, votes
from hetpure_lab.networks.benches import Bench, network_name


def build(text: str, bench: Bench) -> Defended:
    """The defence that `text` names, such as ``hetpure:tau=0.5``, with the networks of `bench`."""
    return of(specs.parse(text, DEFENCES)[1], bench)


def of(purifier: Any, bench: Bench, **options: Any) -> Defended:
    """The defence that these settings are (None: none), with the networks of `bench`."""
    if purifier is None:
        return Undefended(bench.classifier)
    if capabilities(purifier).own_networks:
        return purifier.defend(bench)
    options = {"schedule": bench.schedule} | options
    return assemble(purifier, bench.classifier, bench.denoiser, bench.defended, **options)


def assemble(
    purifier: Any,
    classifier: nn.Module,
    denoiser: nn.Module,
    kind: type[Purified] = Purified,
    **options: Any,
) -> Purified:
    """The classifier behind a purifier, with the votes that the purifier prescribes; one that
    consults the classifier is given it.
    """
    declared = capabilities(purifier)
    if declared.needs_maps and not getattr(denoiser, "takes_maps", False):
        pair = type(purifier).__name__, type(denoiser).__name__
        raise ValueError(
            "{} needs a denoiser that takes a noise level per pixel, "
            "and {} takes one per image".format(*pair)
        )
    prescribed = votes(purifier)
    if declared.consults_classifier:
        purifier = purifier.seeing(classifier)
    return kind(classifier, denoiser, purifier, votes=prescribed, **options)


def published(slug: str) -> str:
    """The spec of the chain that a rival's authors ran, if its default is a shorter one, or ""; so
    it is for a spec with settings.
    """
    settings = capabilities(slug).published if ":" not in slug else {}
    return specs.describe(DEFENCES[slug](**settings), DEFENCES) if settings else ""


def networks(text: str, bench: str) -> list[str]:
    """The names of the weights that the defence uses on `bench`."""
    purifier = specs.parse(text, DEFENCES)[1]
    if capabilities(purifier).own_networks:
        return purifier.weights(bench)
    parts = ("classifier",) if purifier is None else ("classifier", "denoiser")
    return [network_name(bench, part) for part in parts]
