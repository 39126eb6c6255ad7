"""`ATTACKS`, the names of all attacks, and `PRESETS`, settings that have a name of their own."""

from __future__ import annotations

from hetpure_lab.attacks.autoattack import AutoAttack, CorrectedAutoAttack, Square
from hetpure_lab.attacks.pgd import BPDA, PGD, MaskPGD, RandomNoise, Transfer

ATTACKS = {
    "pgd": PGD,
    "bpda": BPDA,
    "pgd-mask": MaskPGD,
    "autoattack": AutoAttack,
    "autoattack-corrected": CorrectedAutoAttack,
    "square": Square,
    "transfer": Transfer,
    "noise": RandomNoise,
}

_STRONG = {"iterations": 100, "eot": 20, "random_start": True, "keep": "best", "loss": "margin", "restarts": 2}
PRESETS = {
    "paper": PGD(iterations=200, eot=20, step=0.007, confirm=0),
    "paper-l2": PGD(norm="L2", eps=0.5, iterations=200, eot=20, step=0.007, l2_step="sign", confirm=0),
    "strong": PGD(**_STRONG),
    "strong-l2": PGD(**_STRONG, norm="L2", eps=0.5, step=0.1),
}
