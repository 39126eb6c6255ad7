"""A report card of any defence: ``hetpure audit``, and `audit` for programs.

    hetpure audit --defence hetpure                       # the checklist, and the commands for what
    is missing hetpure audit --defence uniform:t=0.1 --html card.html --latex card.tex
    hetpure audit --defence mymodule:purify --budget hour  # a function from images to images,
    attacked here and now

The card is one self-contained page: the verdict of every check, the worst case over attacks with
its interval, curves over radius and budget, null controls, cost, and the hashes of all that decided
it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetpure_lab import data
from hetpure_lab.attacks import ATTACKS
from hetpure_lab.audit import checks, plans
from hetpure_lab.audit.cases import Case, NotMeasured, comparable, worst
from hetpure_lab.audit.checks import Check, Verdict
from hetpure_lab.audit.flags import Evidence
from hetpure_lab.audit.own import OWN, own
from hetpure_lab.common import extras, names, specs, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import compare
from hetpure_lab.evidence.records import CODE
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

LEAST = 2  # images, below which nothing can be paired


@dataclass(frozen=True)
class Budget:
    """How much a live audit does: images, and the headline attack's iterations, purifications per
    gradient and purifications per score."""

    images: int
    iterations: int
    eot: int
    K: int


BUDGETS = {
    "minute": Budget(4, 4, 1, 4),
    "hour": Budget(16, 10, 2, 8),
    "night": Budget(64, 20, 8, 20),
}


class BadDefence(ValueError):
    """A function that cannot be audited, and why."""


# ---- a function in somebody's module ---------------------------------------------------------


def is_function(name: str) -> bool:
    """Whether a text names a function, as MODULE:FUNCTION, and no defence with settings."""
    module, colon, function = name.partition(":")
    return bool(colon) and module not in DEFENCES and function.isidentifier()


def load(name: str) -> Callable[[Tensor], Tensor]:
    """The function that MODULE:FUNCTION names; modules of the working directory count."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise BadDefence(
            f"cannot import {module!r} ({error}); give MODULE:FUNCTION, or a defence:"
            f" {', '.join(DEFENCES)}"
        ) from error
    except AttributeError as error:
        raise BadDefence(f"module {module!r} has no {function!r}") from error
    if not callable(found):
        raise BadDefence(f"{name} is {type(found).__name__}, not a function from images to images")
    return found


def trusted(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Raise `BadDefence` unless a function takes images (n, 3, h, w) in [0, 1] to such images."""
    try:
        with torch.no_grad():
            y = function(x)
    except Exception as error:
        raise BadDefence(
            f"the defence fails on images of shape {tuple(x.shape)}: {type(error).__name__}:"
            f" {error}"
        ) from error
    if not isinstance(y, Tensor):
        raise BadDefence(f"the defence returns {type(y).__name__}, not a tensor of images")
    if y.shape != x.shape:
        raise BadDefence(
            f"the defence returns shape {tuple(y.shape)} for images of shape {tuple(x.shape)}; it"
            " must keep it"
        )
    if not torch.isfinite(y).all():
        raise BadDefence(
            f"the defence returns {int((~torch.isfinite(y)).sum())} values that are NaN or infinite"
        )
    if y.min() < -0.5 or y.max() > 1.5:
        raise BadDefence(
            f"the defence returns values from {y.min():.2f} to {y.max():.2f}; images are in [0, 1]"
        )


def enough(images: Images) -> None:
    """Raise `ValueError` for too few images."""
    if len(images) < LEAST:
        raise ValueError(
            f"an audit needs at least {LEAST} images, not {len(images)}; {compare.ENOUGH} for a"
            " verdict that is no toy"
        )


# ---- the card --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """An audited case: its checks, and what it took."""

    name: str
    case: Case
    rows: tuple[tuple[Check, Verdict], ...]
    scale: str
    seconds: float

    @property
    def attacks(self) -> dict[str, Evidence]:
        """The attacks that can be compared with the headline, by spec."""
        return {cell[1]: e for cell, e in self.case.found.items() if comparable(cell, e, self.case)}

    @property
    def left(self) -> tuple[Accuracy, int] | None:
        """What the worst attack of each image leaves, and over how many attacks."""
        found = self.attacks
        longest = max(map(lambda e: len(e.records), found.values()), default=0)
        used = [e for e in found.values() if 2 * len(e.records) >= longest]
        shared = [k for k in used[0].records if all(k in e.records for e in used)] if used else []
        if not shared:
            return None
        rates = worst(used, shared) if len(used) > 1 else used[0].rates("adversarial", shared)
        return stats.mean_rate(rates), len(used)

    @property
    def controls(self) -> dict[str, Accuracy]:
        """The headline's three columns: clean, random noise of the same norm, attacked."""
        e = self.case.found.get(self.case.cell(self.case.headline))
        shown = {"no attack": "clean", "random noise": "null", "attacked": "adversarial"}
        return {title: e.outcomes.single(column) for title, column in shown.items()} if e else {}

    def curve(self, over: str) -> list[tuple[float, Accuracy]]:
        """What PGD leaves over ``radius`` (255 eps) or ``budget`` (gradients per image)."""
        points = {}
        for (defence, attack, seed), e in self.case.found.items():
            slug, s = specs.parse(attack, ATTACKS)
            plain = (
                slug == "pgd"
                and s.norm == "Linf"
                and s.gradient == "exact"
                and not s.frozen
                and s.restarts == 1
            )
            if (defence, seed) == (self.case.defence, 0) and plain:
                at = 255 * s.eps if over == "radius" else s.iterations * s.eot
                if over == "radius" or abs(255 * s.eps - 8) < 1e-6:
                    a = e.outcomes.single("adversarial")
                    if at not in points or a.n > points[at].n:
                        points[at] = a
        return sorted(points.items())

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256, shortened, of every file of records and source that decided."""
        of = lambda thing: hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[
            :16
        ]
        return {
            e.about: of(e.records)
            for e in self.case.found.values()
            if e.config["defence"]["name"] in (OWN, self.case.defence.partition(":")[0])
        } | {name: value for name, value in CODE.items()}

    @cached_property
    def clock(self) -> plans.Clock:
        """How long things take here."""
        return plans.Clock.of(self.case)

    @cached_property
    def needs(self) -> list[tuple[str, str]]:
        """What each check needs, and how long that takes."""
        return [plans.about(check, self.case, self.clock) for check, _ in self.rows]

    def plan(self, name: str) -> list[str]:
        """What a preset would still run, with its time; of a function, nothing."""
        if self.case.defence == OWN:
            return []
        found = plans.preset(name, self.rows, self.clock)
        return [f"{command}  # {plans.said(seconds)}" for command, seconds in found]

    def as_json(self) -> dict:
        """The card as values."""
        checked = [
            {"check": c.name, "question": c.question, "chapter": c.chapter, "needs": n, "takes": t}
            | asdict(v)
            for (c, v), (n, t) in zip(self.rows, self.needs)
        ]
        left = self.left and asdict(self.left[0]) | {"attacks": self.left[1]}
        curves = {
            over: [[at, asdict(a)] for at, a in self.curve(over)] for over in ("radius", "budget")
        }
        controls = {k: asdict(a) for k, a in self.controls.items()}
        about = {
            "defence": self.name,
            "bench": self.case.bench,
            "scale": self.scale,
            "seconds": round(self.seconds, 1),
        }
        return about | {
            "worst": left,
            "controls": controls,
            "curves": curves,
            "checks": checked,
            "plans": {name: self.plan(name) for name in plans.HOURS},
            "hashes": self.hashes,
        }

    def latex(self) -> str:
        """The checks as a LaTeX table."""
        escaped = lambda s: "".join(
            {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"}.get(c, c) for c in s
        )
        lines = [f"{escaped(c.name)} & {v.state} & {escaped(v.seen)} \\\\" for c, v in self.rows]
        left = (
            f"Worst of {self.left[1]} attacks per image: {self.left[0]} \\% (n = {self.left[0].n})."
            if self.left
            else "No attack is measured."
        )
        head = ["\\begin{tabular}{llp{9cm}}", "check & state & seen \\\\ \\hline"]
        return "\n".join(
            [
                f"% {self.name} on {self.case.bench}, scale: {self.scale}",
                *head,
                *lines,
                "\\end{tabular}",
                escaped(left).replace("\\\\%", "\\%"),
                "",
            ]
        )

    def html(self) -> str:
        """The card as one self-contained page."""
        parts = [
            f"<h1>{escape(title(self.name))}</h1>",
            f"<p>{escape(names.bench(self.case.bench))}; scale: <b>{self.scale}</b></p>",
        ]
        if self.left:
            parts.append(
                f"<p class=big>{self.left[0]} %</p><p>left by the worst of {self.left[1]} attacks"
                f" per image, n = {self.left[0].n}</p>"
            )
        else:
            parts.append("<p class=big>not measured</p>")
        parts.append(f"<p>{escape(checks.summary(self.rows))}</p>")
        parts += [svg(self.curve(over), over) for over in ("radius", "budget")]
        rows = [[t, f"{a} %", str(a.n)] for t, a in self.controls.items()]
        parts.append(
            f"<h2>Null controls</h2>{table(['images', 'right answers', 'n'], rows)}" if rows else ""
        )
        rows = [
            [c.name, v.state, c.question, v.seen or v.run, *needs]
            for (c, v), needs in zip(self.rows, self.needs)
        ]
        head = ["check", "state", "question", "seen, or how to measure it", "needs", "takes"]
        parts.append(f"<h2>Checks</h2>{table(head, rows)}")
        for name in ("hour", "night"):
            if lines := self.plan(name):
                listed = escape("\n".join(lines))
                parts.append(
                    f"<h2>What an {name} would add</h2><pre>{listed}</pre>".replace(
                        "an night", "a night"
                    )
                )
        took = sum(r.get("seconds", 0) for e in self.attacks.values() for r in e.records.values())
        parts.append(
            f"<h2>Cost</h2><p>{took / 3600:.2f} processor hours for the attacks; {self.seconds:.0f}"
            " s for this card.</p>"
        )
        parts.append(
            "<h2>What"
            f" decided</h2>{table(['file', 'sha256'], [[k, v] for k, v in self.hashes.items()])}"
        )
        style = (
            ":root{color-scheme:light dark}body{font:16px/1.5 sans-serif;max-width:60em;margin:2em"
            " auto;padding:0 1em}table{border-collapse:collapse;font-size:80%}"
            "pre{white-space:pre-wrap}.wide{overflow-x:auto}"
            "svg{max-width:100%;height:auto;background:#fff}"
        )
        style += (
            "td,th{border:1px solid #999;padding:.2em"
            " .5em;text-align:left;vertical-align:top}.big{font-size:2em;margin:0}"
        )
        head = (
            '<meta charset="utf-8"><meta name="viewport"'
            f' content="width=device-width"><title>{escape(title(self.name))}</title>'
        )
        head += f"<style>{style}</style>"
        body = "".join(parts)
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def title(name: str) -> str:
    """What people call a defence; a function keeps its name."""
    return name if is_function(name) or name == OWN else names.defence(name)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table."""
    line = lambda cells, tag: (
        "<tr>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>"
    )
    body = f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="table">{body}</div>'


def svg(points: Sequence[tuple[float, Accuracy]], over: str) -> str:
    """A curve with intervals, as an SVG inside the page; nothing for fewer than two points."""
    if len(points) < 2:
        return ""
    with extras.wanted():
        import matplotlib.pyplot as plt
    at, left = zip(*points)
    values = np.array([[a.value, a.value - a.low, a.high - a.value] for a in left]).T * 100
    figure, axis = plt.subplots(figsize=(4, 2.4))
    axis.errorbar(at, values[0], values[1:].clip(0), marker="o", capsize=3)
    label = "radius, of 255" if over == "radius" else "gradients per image"
    axis.set(
        xlabel=label,
        ylabel="right answers, %",
        ylim=(0, 100),
        xscale="linear" if over == "radius" else "log",
    )
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight")
    plt.close(figure)
    said = f"What PGD leaves over the {over}: " + ", ".join(f"{x:g}: {a}" for x, a in points)
    picture = "".join(buffer.getvalue().partition("<svg")[1:])
    return f'<h2>Over the {over}</h2><div role="img" aria-label="{escape(said)}">{picture}</div>'


def audit(
    defence: str | Callable[[Tensor], Tensor],
    bench: str | Bench = "cifar10-small",
    budget: str = "hour",
    images: Images | None = None,
    live: bool = True,
    results: Path = RESULTS,
    quiet: bool = False,
) -> Card:
    """The card of a defence by its spec, from its records and a short live run, or of a function
    from
    images (n, 3, h, w) in [0, 1] to such images, attacked within a `budget` of `BUDGETS`.

    Raises `ValueError` for unknown defences and budgets, functions that return no images, and fewer
    than two images.
    """
    start = time.monotonic()
    if budget not in BUDGETS:
        raise ValueError(f"unknown budget {budget!r}; known: {', '.join(BUDGETS)}")
    function = defence if callable(defence) else load(defence) if is_function(defence) else None
    name = defence if isinstance(defence, str) else getattr(defence, "__name__", OWN)
    if function is None:
        specs.parse(name, DEFENCES)
    lab = benches.load(bench) if isinstance(bench, str) and (live or function) else bench
    if function is not None:
        size = BUDGETS[budget]
        images = images or data.load(lab.dataset, quiet=True).take(size.images)
        enough(images)
        trusted(function, images.take(2).floats.to(lab.device))
        case = own(function, lab, images, size.iterations, size.eot, size.K, quiet)
    else:
        flags = None
        if live:
            images = images or data.load(lab.dataset, quiet=True).take(LEAST)
            enough(images)
            flags = checks.look(lab, name, images)
        case = Case.of(bench if isinstance(bench, str) else bench.name, name, results, live=flags)
    rows = tuple(checks.checklist(case))
    n = max(
        (len(e.records) for cell, e in case.found.items() if cell[0] == case.defence), default=0
    )
    return Card(name, case, rows, compare.scale(case.bench, n), time.monotonic() - start)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure audit", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument(
        "--defence", default="hetpure", help="a defence, or MODULE:FUNCTION from images to images"
    )
    parser.add_argument(
        "--budget", default="hour", choices=BUDGETS, help="of a function's live audit"
    )
    parser.add_argument(
        "--n-images", type=int, help="of a function's live audit, instead of the budget's"
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="what each preset would still run, and how long it takes",
    )
    parser.add_argument("--records-only", action="store_true", help="skip the live run")
    parser.add_argument("--json", action="store_true", help="the checks as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the card as one page")
    parser.add_argument("--latex", metavar="FILE", help="write the checks as a LaTeX table")
    parser.add_argument("--card", metavar="FILE", help="write the card as JSON")
    args = parser.parse_args(argv)
    images = None
    if args.n_images is not None:
        if args.n_images < LEAST:
            raise ValueError(
                f"an audit needs at least {LEAST} images, not {args.n_images}; {compare.ENOUGH} for"
                " a verdict that is no toy"
            )
        images = data.load(benches.load(args.bench).dataset, quiet=True).take(args.n_images)
    try:
        card = audit(args.defence, args.bench, args.budget, images, not args.records_only)
    except NotMeasured as missing:
        raise ValueError(str(missing)) from missing
    for path, said in (
        (args.html, card.html),
        (args.latex, card.latex),
        (args.card, lambda: json.dumps(card.as_json(), indent=1)),
    ):
        if path:
            Path(path).write_text(said())
            print(f"wrote {path}", file=sys.stderr)
    if args.plan:
        for name in plans.HOURS:
            print("\n".join([f"# {name}", *(card.plan(name) or ["# nothing fits or is missing"])]))
    elif args.json:
        print(json.dumps(card.as_json()["checks"], indent=1))
    elif not (args.html or args.latex or args.card):
        print("\n".join(f"{v.state:12}  {c.name:16}  {v.seen}" for c, v in card.rows))
        print("\n".join([checks.summary(card.rows), *checks.commands(card.rows)]))
