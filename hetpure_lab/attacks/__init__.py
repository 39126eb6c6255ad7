"""Attacks on a defence, by name, and what they share: the ball, the gradient, the loss averaged
over noise.

Every module of this package is imported, and registers what it has.
"""

from importlib import import_module
from pkgutil import iter_modules

from hetpure_lab.attacks.autoattack import AutoAttack, CorrectedAutoAttack, Square
from hetpure_lab.attacks.gradients import (
    LOSSES,
    Defence,
    StraightThrough,
    confirmed,
    logits_of,
    loss_and_gradient,
    mean_loss,
    pick,
    reseeded,
    seen_by_the_attack,
)
from hetpure_lab.attacks.pgd import BPDA, PGD, MaskPGD, RandomNoise, Transfer
from hetpure_lab.attacks.registry import PRESETS
from hetpure_lab.attacks.threat import (
    ATTACKS,
    Attack,
    Found,
    Tick,
    no_tick,
    perturb_randomly,
    register,
    to_8_bit,
)
from hetpure_lab.defences.interface import Defended, Undefended

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ATTACKS",
    "BPDA",
    "LOSSES",
    "PGD",
    "PRESETS",
    "Attack",
    "AutoAttack",
    "CorrectedAutoAttack",
    "Defence",
    "Defended",
    "Found",
    "MaskPGD",
    "RandomNoise",
    "Square",
    "StraightThrough",
    "Tick",
    "Transfer",
    "Undefended",
    "confirmed",
    "logits_of",
    "loss_and_gradient",
    "mean_loss",
    "no_tick",
    "perturb_randomly",
    "pick",
    "register",
    "reseeded",
    "seen_by_the_attack",
    "to_8_bit",
]
