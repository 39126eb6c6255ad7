"""The one command of the project: ``hetpure COMMAND ...``, and the same as ``python -m hetpure_lab
COMMAND ...``.

Bad input is one sentence on stderr and exit code 2. A command's modules are imported when it runs,
so that ``hetpure --help`` is quick. ``--plugin MODULE``, of any command and as often as needed,
imports a module that registers purifiers, attacks, benches, data sets or networks
(`common.plugins`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from hetpure_lab.common import extras, paths, plugins


@dataclass(frozen=True)
class Command:
    """A command's help line and where its ``main(argv)`` is; `first` goes before the arguments.

    With `checkout` it works on files of the repository that no installation has.
    """

    says: str
    module: str
    first: tuple[str, ...] = ()
    checkout: bool = False


COMMANDS = {
    "list": Command(
        "what there is: defences, attacks, benches, networks or datasets", "report.listing"
    ),
    "run": Command("start or continue one experiment", "evidence.command", ("run",)),
    "queue": Command(
        "run what results/queue.txt lists and is not done", "evidence.command", ("queue",)
    ),
    "left": Command("list what the queue has that is not done", "evidence.command", ("left",)),
    "experiments": Command("list every experiment with its accuracies", "evidence.listing"),
    "export": Command(
        "write an experiment's adversarial images as PNG files", "evidence.command", ("export",)
    ),
    "rescore": Command(
        "judge stored adversarial images again, without the attack", "evidence.rescore"
    ),
    "manifest": Command(
        "whether files of records are as they were entered, and entering verified ones",
        "evidence.entering",
    ),
    "grid": Command("run or list a grid of settings around the method", "evidence.ablations"),
    "study": Command("measure what figures need beside the evidence", "evidence.studies"),
    "elements": Command(
        "every numbered element of the paper, and what is measured of it", "paper.elements"
    ),
    "protocols": Command(
        "the experiments that a table of the paper needs at its own scale", "paper.protocols"
    ),
    "claims": Command(
        "every claim of the paper with its verdict, records and command", "report.claims"
    ),
    "leaderboard": Command(
        "defences under one protocol, and checking an entry", "report.leaderboard"
    ),
    "certify": Command("radii within which no perturbation changes the vote", "evidence.certify"),
    "audit": Command("a report card of any defence, yours included", "report.card"),
    "flags": Command("signs that an evaluation overstates robustness", "audit.flags"),
    "zoo": Command("evaluation faults: what each adds, and which flag catches it", "audit.faults"),
    "cost": Command("what a run costs, before it is run", "cost.planner"),
    "bench": Command("measure speed and memory of attacks on this machine", "cost.benchmark"),
    "gpu": Command("equality, speed and memory of a GPU, into results/gpu.json", "cost.gpu"),
    "precision": Command("what faster arithmetic does to the gradient", "cost.arithmetic"),
    "check": Command("accuracies of a bench's networks on any data", "training.check"),
    "train": Command("train a small network", "training.train"),
    "fetch": Command("download and check published networks", "networks.fetch"),
    "pages": Command("write the generated pages of the book", "report.pages", checkout=True),
    "figures": Command("draw the pictures of the book", "report.figures", checkout=True),
    "live": Command(
        "pack the networks for the page of the book that attacks", "report.live", checkout=True
    ),
    "chapters": Command("run chapters and keep their outputs", "report.chapters", checkout=True),
}


def overview() -> str:
    """The list of commands."""
    lines = (f"  {name:12} {about.says}" for name, about in COMMANDS.items())
    more = [
        "hetpure COMMAND --help says more. Any command takes --plugin MODULE, a module's name or a",
        ".py file that registers something of yours, and so does the environment: HETPURE_PLUGINS.",
    ]
    return "\n".join(["usage: hetpure COMMAND ...", "", *lines, "", *more])


def release() -> str:
    """The version of the installed package."""
    try:
        return version("hetpure")
    except PackageNotFoundError:
        return "unknown (not installed)"


def without_plugins(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without ``--plugin MODULE`` and ``--plugin=MODULE``, and the modules."""
    kept, modules, rest = [], [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != "--plugin":
            kept.append(word)
            continue
        value = value if equals else next(rest, "")
        if not value or value.startswith("-"):
            raise ValueError("--plugin needs the name of a module or a .py file")
        modules.append(value)
    return kept, modules


def run(words: Sequence[str]) -> int:
    """Run one command; returns its exit code. Bad input raises `ValueError` or `OSError`."""
    words, modules = without_plugins(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("--version", "-V"):
        print(f"hetpure {release()}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r}; known: {', '.join(COMMANDS)}")
    if modules and not {"-h", "--help"} & set(rest):
        plugins.use(*modules)
    about = COMMANDS[name]
    if about.checkout:
        paths.demand_checkout(f"hetpure {name}")
    return import_module(f"hetpure_lab.{about.module}").main([*about.first, *rest]) or 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Bad input is a sentence on stderr and code 2."""
    try:
        return run(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("stopped; what was finished is kept", file=sys.stderr)
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2


def sentence(error: Exception) -> str:
    """An error in one line; for a missing package, how to install it."""
    if isinstance(error, ModuleNotFoundError):
        return extras.missing(error)
    return " ".join(str(error).split("\n")) or type(error).__name__
