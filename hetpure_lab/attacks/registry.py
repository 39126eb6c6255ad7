"""Settings of attacks that have a name of their own: `PRESETS`."""

from __future__ import annotations

from hetpure_lab.attacks.pgd import PGD
from hetpure_lab.attacks.threat import Attack
from hetpure_lab.common.registry import Registry

_STRONG = {
    "iterations": 100,
    "eot": 20,
    "random_start": True,
    "keep": "best",
    "loss": "margin",
    "restarts": 2,
}
PRESETS: Registry[Attack] = Registry(
    "preset",
    {
        "paper": PGD(iterations=200, eot=20, step=0.007, confirm=0),
        "paper-l2": PGD(
            norm="L2", eps=0.5, iterations=200, eot=20, step=0.007, l2_step="sign", confirm=0
        ),
        # at most a tenth of the gradients of "paper"; book/scaling says what it leaves beside it
        "thrifty": PGD(iterations=50, momentum=0.75, schedule="cosine", loss="hinge"),
        "strong": PGD(**_STRONG),
        "strong-l2": PGD(**_STRONG, norm="L2", eps=0.5, step=0.1),
    },
)
