"""Gradual noise (Lee & Kim 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hetpure_core import Denoiser, Noise, Plan, Schedule, Uniform
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.sampling import Rival, Scene, chained


@register(
    "gradual",
    Capabilities(
        published={"steps": (30, 30, 30, 30, 50, 50, 125, 125)}, shorter=lambda p, *_: p.surrogate()
    ),
)
@dataclass(frozen=True)
class Gradual(Rival):
    """Lee & Kim's gradual noise: whole DDPM purifications one after another at rising levels.

    `levels` in thousandths of T, `steps` of each. Lee & Kim 2023, CIFAR-10: levels 30 x 4, 50 x 2,
    125 x 2 with every index visited (470 calls: ``steps`` equal to ``levels``); here 34 calls by
    default. Their attack differentiates 30, 50, 125 with 1, 1, 5 steps: `surrogate`.
    """

    levels: tuple[int, ...] = (30, 30, 30, 30, 50, 50, 125, 125)
    steps: tuple[int, ...] = (2, 2, 2, 2, 4, 4, 9, 9)

    def __post_init__(self):
        if len(self.levels) != len(self.steps) or not self.levels:
            raise ValueError(
                f"levels and steps need as many entries: {self.levels} and {self.steps}"
            )
        self.loops()  # their checks

    def loops(self) -> list[Uniform]:
        return [Uniform(level / 1000, n, "ddpm") for level, n in zip(self.levels, self.steps)]

    def surrogate(self) -> Gradual:
        return Gradual((30, 50, 125), (1, 1, 5))

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        return chained(self.loops(), Scene(x_adv, eps, noise, schedule))

    def calls(self, schedule: Schedule) -> int:
        return sum(loop.calls(schedule) for loop in self.loops())
