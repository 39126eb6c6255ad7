"""What a defence is, what it declares about itself, and the registry of all: `DEFENCES`.

A *purifier* is a frozen dataclass of settings with ``mask``, ``plan`` and ``calls``
(`hetpure_core.Purifier`). A *defence with networks of its own* has ``weights(bench)``, ``calls``
and ``defend(bench)`` instead (`OwnNetworks`). Either is one file: `register` stands above the
class, with the `Capabilities` that differ from the usual ones. Everybody else asks for these,
by name, settings or class (`capabilities`), and never for the class itself.

    @register("blur", Capabilities(randomised=False))
    @dataclass(frozen=True)
    class Blur:
        ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch import Tensor, nn

from hetpure_core import Purified, Schedule, check_images, frozen
from hetpure_lab.common.registry import Part, Registry

if TYPE_CHECKING:
    from hetpure_lab.networks.benches import Bench

Kind = TypeVar("Kind", bound=type)
Shorter = Callable[[Any, str, Schedule], Any]


class Undefended(nn.Module):
    """The bare classifier with a defence's signature."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier, self.seed, self.training = classifier, 0, False

    def forward(
        self, images: Tensor, ids: Sequence[Any] | None = None, copies: Sequence[int] | None = None
    ) -> Tensor:
        check_images(images)
        return frozen(self.classifier)(images)


Defended = Purified | Undefended  # what is evaluated


class OwnNetworks(Protocol):
    """A defence that brings its own networks, or is one."""

    def weights(self, bench: str) -> list[str]:
        """The names of all weights that it uses on a bench."""
        ...

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per answer."""
        ...

    def defend(self, bench: Bench) -> nn.Module:
        """The module ``(images, ids, copies) -> logits`` that attacks and scoring see."""
        ...

    def rehearse(self, classifier: nn.Module, denoiser: nn.Module) -> nn.Module:
        """The same module with other networks in the places of its own, for those who count
        passes.
        """
        ...


@dataclass(frozen=True)
class Capabilities:
    """What a kind of defence declares about itself.

    - `family`: ``method`` (the paper's own, its baseline and controls), ``rival`` (a purifier on
      the bench's networks), ``mapped`` (one with a noise level per pixel) or ``trained``.
    - `randomised`: whether it draws noise. `purifies`: whether it changes images at all.
    - `has_mask`: whether its plan needs a mask. `attention`: whether that mask is the core's
      threshold on attention, which an attack may smooth (as `mask_kind` says).
    - `needs_maps`: its denoiser must take a noise level per pixel (a network with ``takes_maps``).
    - `consults_classifier`: it has ``seeing(classifier)``, the purifier with what it consults.
    - `own_networks`: it is an `OwnNetworks`, not a purifier on the bench's networks.
    - `published`: the settings of its authors' chain where the default is a shorter one.
    - `shorter`: the purifier that an attack differentiates instead, from the settings, the name of
      the gradient (``surrogate``, ``surrogate-masked``) and the schedule; None: there is none.
    - `unpriced`: what a cost plan leaves out, in words.
    """

    family: str = "rival"
    randomised: bool = True
    purifies: bool = True
    has_mask: bool = False
    attention: bool = False
    consults_classifier: bool = False
    needs_maps: bool = False
    own_networks: bool = False
    published: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shorter: Shorter | None = None
    unpriced: str = ""


DEFENCES: Registry[Any] = Registry(
    "defence",
    {"none": None},
    order=(
        "none uniform hetpure equal-energy image-gradient "
        "sde ode gradual gdmp mimic contrastive lorid densepure adp langevin freqpure diffap ssni "
        "scoreopt pursamere taro mani likelihood at me-net pixeldefend atop "
        "noise-map noise-map-untold per-pixel"
    ).split(),
)
_BARE = Capabilities("none", randomised=False, purifies=False)
_USUAL = Capabilities()
_declared: dict[type, Capabilities] = {}


def register(name: str, declared: Capabilities = _USUAL) -> Callable[[Kind], Kind]:
    """A decorator that enters a class of settings under `name`, with what it declares."""

    def enter(kind: Kind) -> Kind:
        DEFENCES.add(name, kind)
        _declared[kind] = declared
        return kind

    return enter


def capabilities(defence: object | str | None) -> Capabilities:
    """What a defence declares, given by its name, settings or class (None: no defence).

    Settings of a class that nobody registered are those of the class that it extends, or else of
    an ordinary purifier.
    """
    if isinstance(defence, str):
        defence = DEFENCES[defence]
    if defence is None:
        return _BARE
    kind = defence if isinstance(defence, type) else type(defence)
    return next((_declared[base] for base in kind.__mro__ if base in _declared), _USUAL)


def votes(purifier: object | None) -> int:
    """How many purifications the answer of a purifier is the vote of: its own ``votes``, or 1."""
    return int(getattr(purifier, "votes", 1))


def family(name: str) -> Part[Any]:
    """The registered defences of one family."""
    return Part(DEFENCES, lambda slug: capabilities(slug).family == name)


METHODS, RIVALS, TRAINED = family("method"), family("rival"), family("trained")
