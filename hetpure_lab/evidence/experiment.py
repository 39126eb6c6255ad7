"""Experiments: a bench, a defence, an attack and a scoring rule, and the file that holds its
records, one line per image.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hetpure_lab import defences
from hetpure_lab.attacks import ATTACKS, PRESETS, Attack
from hetpure_lab.common import specs
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.defences import DEFENCES
from hetpure_lab.networks import benches


def key_of(config: dict) -> str:
    """The key of a configuration, as a record has it, whether or not its weights are still here."""
    names = {
        "defence": specs.write(config["defence"], DEFENCES),
        "attack": specs.write(config["attack"], ATTACKS),
    }
    return hashlib.sha256(json.dumps(config | names, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Experiment:
    """`defence` and `attack` are specs such as ``hetpure:tau=0.5`` and ``pgd:eps=4/255``, or
    objects, which become specs; an attack can be one of `attacks.PRESETS` by name. `K`
    purifications score every column."""

    defence: Any  # a str, once made
    attack: Any
    bench: str = "cifar10-small"
    split: str = "test"
    K: int = 20
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.attack, str):
            object.__setattr__(self, "attack", PRESETS.get(self.attack, self.attack))
        for name, known in (("defence", DEFENCES), ("attack", ATTACKS)):
            if not isinstance(getattr(self, name), str):
                object.__setattr__(self, name, specs.describe(getattr(self, name), known))
            specs.parse(getattr(self, name), known)
        self.settings.fits(self.bench)
        if self.K < 1:
            raise ValueError(f"K must be at least 1, not {self.K}")

    @cached_property
    def config(self) -> dict:
        """All settings, spelt out, and the weights' checksums."""
        defence, purifier = specs.parse(self.defence, DEFENCES)
        attack, settings = specs.parse(self.attack, ATTACKS)
        return {
            "bench": self.bench,
            "split": self.split,
            "defence": {"name": defence} | (asdict(purifier) if purifier else {}),
            "attack": {"name": attack} | asdict(settings),
            "K": 1 if purifier is None else self.K,
            "seed": self.seed,
            "weights": {
                name: benches.card(name)["sha256"][:16]
                for name in [*defences.networks(self.defence, self.bench), *settings.networks()]
            },
        }

    @property
    def settings(self) -> Attack:
        """The attack that the spec names."""
        return specs.parse(self.attack, ATTACKS)[1]

    @property
    def key(self) -> str:
        """What makes two experiments the same: their settings other than defaults, however worded,
        and the weights.
        """
        return key_of(self.config)

    @property
    def classes(self) -> tuple[type, ...]:
        """The classes of its purifier and its attack, whose sources decide what comes out."""
        return tuple(
            type(specs.parse(*known)[1])
            for known in ((self.defence, DEFENCES), (self.attack, ATTACKS))
        )

    def path(self, results: Path = RESULTS) -> Path:
        """The file of this experiment's records; its name is for people, its key decides."""
        name = re.sub(r"[^\w.=+-]+", "-", f"{self.defence}--{self.attack}")
        return results / self.bench / f"{name}--{self.key}.jsonl"
