"""Attacks on a defence, by name, and what they share: the ball, the gradient, the loss averaged over noise."""

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
from hetpure_lab.attacks.registry import ATTACKS, PRESETS
from hetpure_lab.attacks.threat import Attack, Found, Tick, no_tick, perturb_randomly, to_8_bit
from hetpure_lab.defences.interface import Defended, Undefended

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
    "reseeded",
    "seen_by_the_attack",
    "to_8_bit",
]
