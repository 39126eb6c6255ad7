"""Adversarial images of other networks: what an attacker has who knows the defence, not its
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hetpure_lab import defences
from hetpure_lab.attacks.gradients import Defended
from hetpure_lab.attacks.pgd import PGD
from hetpure_lab.attacks.threat import Found, Tick, no_tick, register
from hetpure_lab.networks import benches


@register("transfer-from")
@dataclass(frozen=True)
class TransferFrom(PGD):
    """PGD+EOT on the same purifier with the networks of another `bench`; what it finds is scored on
    the defence itself, which it never looks at.

    With ``gradient=undefended`` the source is the bare classifier of that bench, as it is for a
    defence without a purifier. The source's weights stand in the record's configuration beside the
    target's. Raises `ValueError` for a bench of other images, and for a defence whose own networks
    the source lacks. Source: Papernot et al. 2016.
    """

    strength: ClassVar[int | None] = 1

    bench: str = "cifar10-independent"
    confirm: int = 0

    choices: ClassVar = PGD.choices | {"gradient": ("exact", "bpda", "undefended")}

    def networks(self) -> tuple[str, ...]:
        parts = ("classifier",) if self.gradient == "undefended" else benches.PARTS
        return tuple(benches.network_name(self.bench, part) for part in parts)

    def fits(self, bench: str) -> None:
        mine, theirs = benches.dataset(self.bench), benches.dataset(bench)
        if mine != theirs:
            raise ValueError(
                f"transfer-from: the images of {self.bench} are {mine}, and those of {bench} are"
                f" {theirs}: take a bench of {theirs}"
            )

    def run(
        self,
        defence: Defended,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Found:
        return super().run(self.source(defence, images), images, labels, ids, seed, tick)

    def source(self, defence: Defended, images: Tensor) -> Defended:
        """What is attacked in place of `defence`."""
        bench = benches.load(self.bench, str(images.device))
        return defences.of(getattr(defence, "purifier", None), bench)
