"""What each check of an audit needs, how long that takes here, and what fits into an hour or a
night."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.audit.cases import Case, NotMeasured
from hetpure_lab.audit.checks import Check, Verdict
from hetpure_lab.common import specs

HOURS = {"minute": 1 / 60, "hour": 1.0, "night": 8.0}
IMAGES = (64, 32, 16)  # what a preset tries, the most first
LIVE = 30.0  # seconds that a short live run takes at most, by `checks.look`
PASSES = {"autoattack": 2, "autoattack-corrected": 2, "square": 1 / 3}  # losses; forward only


def needs(check: Check, case: Case) -> list[str]:
    """The commands that make all that a check needs, whether they were run or not."""
    try:
        check.judge(replace(case, found={}, live=None, records=None))
    except NotMeasured as missing:
        return [line for line in str(missing).splitlines() if not line.startswith("#")]
    return []


@dataclass(frozen=True)
class Clock:
    """Seconds of one gradient for one image, by defence, as this bench's records have them."""

    gradient: dict[str, float]

    @classmethod
    def of(cls, case: Case) -> Clock:
        """From every record under an attack that takes gradients."""
        spent: dict[str, list[float]] = {}
        for (defence, attack, _), e in case.found.items():
            work, times = _gradients(attack), [r.get("seconds") for r in e.records.values()]
            if work and None not in times:
                spent.setdefault(defence, []).append(sum(times) / len(times) / work)
        return cls({d: sorted(found)[len(found) // 2] for d, found in spent.items()})

    def seconds(self, command: str, images: int | None = None) -> float | None:
        """How long a command takes, for its own number of images or `images`; None where no record
        of the defence says."""
        words = dict(re.findall(r"--([\w-]+) (\S+)", command))
        if command.startswith("hetpure audit"):
            return LIVE
        if "attack" not in words or words["defence"] not in self.gradient:
            return None
        n = images or int(words.get("n-images", 64))
        return n * _gradients(words["attack"]) * self.gradient[words["defence"]]


def _gradients(attack: str) -> float:
    """How many gradients an attack takes of one image."""
    name, settings = specs.parse(attack, ATTACKS)
    steps = settings.iterations * settings.eot * getattr(settings, "restarts", 1)
    return steps * PASSES.get(name, 1)


def preset(
    name: str, rows: Sequence[tuple[Check, Verdict]], clock: Clock
) -> Iterator[tuple[str, float | None]]:
    """The missing commands that fit into `HOURS`, in the order of the checks, each on as many of
    `IMAGES` as fit, with its seconds; one whose time nobody knows comes with None and the rest of
    the time."""
    left = 3600 * HOURS[name]
    for command in dict.fromkeys(line for _, v in rows for line in v.run.splitlines()):
        if "--n-images" not in command:
            continue
        for n in IMAGES:
            takes = clock.seconds(command, n)
            if takes is None or takes <= left:
                yield re.sub(r"--n-images \d+", f"--n-images {n}", command), takes
                left -= takes or 0.0
                break


def said(seconds: float | None) -> str:
    """A time in words."""
    if seconds is None:
        return "not known before a first record"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def about(check: Check, case: Case, clock: Clock) -> tuple[str, str]:
    """What a check needs, in words, and how long that takes."""
    commands = needs(check, case)
    if not commands:
        return "the attacks of this audit", "within its budget"
    parts = []
    for command in commands:
        words = dict(zip(shlex.split(command), shlex.split(command)[1:]))
        live, again = command.startswith("hetpure audit"), command.startswith("hetpure rescore")
        parts.append("a live run" if live else "a rescore" if again else words.get("--attack", ""))
    times = [clock.seconds(command) for command in commands]
    total = None if None in times else sum(times)
    return ", ".join(dict.fromkeys(filter(None, parts))), said(total)
