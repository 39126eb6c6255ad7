"""The one command of the project: ``hetpure COMMAND ...``, and the same as ``python -m hetpure_lab COMMAND ...``.

Bad input is one sentence on stderr and exit code 2. A command's modules are imported when it runs, so that ``hetpure --help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """A command's help line and where its ``main(argv)`` is; `first` goes before the arguments."""

    says: str
    module: str
    first: tuple[str, ...] = ()


COMMANDS = {
    "run": Command("start or continue one experiment", "evidence.command", ("run",)),
    "queue": Command("run what results/queue.txt lists and is not done", "evidence.command", ("queue",)),
    "left": Command("list what the queue has that is not done", "evidence.command", ("left",)),
    "experiments": Command("list every experiment with its accuracies", "evidence.listing"),
    "export": Command("write an experiment's adversarial images as PNG files", "evidence.command", ("export",)),
    "rescore": Command("judge stored adversarial images again, without the attack", "evidence.rescore"),
    "manifest": Command("whether files of records are as they were entered, and entering verified ones", "evidence.entering"),
    "grid": Command("run or list a grid of settings around the method", "evidence.ablations"),
    "study": Command("measure what figures need beside the evidence", "evidence.studies"),
    "elements": Command("every numbered element of the paper, and what is measured of it", "paper.elements"),
    "protocols": Command("the experiments that a table of the paper needs at its own scale", "paper.protocols"),
    "audit": Command("a sceptic's questions about a defence, answered from records", "audit.checks"),
    "flags": Command("signs that an evaluation overstates robustness", "audit.flags"),
    "zoo": Command("evaluation faults: what each adds, and which flag catches it", "audit.faults"),
    "cost": Command("what a run costs, before it is run", "cost.planner"),
    "bench": Command("measure speed and memory of attacks on this machine", "cost.benchmark"),
    "precision": Command("what faster arithmetic does to the gradient", "cost.arithmetic"),
    "check": Command("accuracies of a bench's networks on any data", "training.check"),
    "train": Command("train a small network", "training.train"),
    "fetch": Command("download and check published networks", "networks.fetch"),
    "pages": Command("write the generated pages of the book", "report.pages"),
    "figures": Command("draw the pictures of the book", "report.figures"),
    "live": Command("pack the networks for the page of the book that attacks", "report.live"),
    "chapters": Command("run chapters and keep their outputs", "report.chapters"),
}


def overview() -> str:
    """The list of commands."""
    lines = (f"  {name:12} {about.says}" for name, about in COMMANDS.items())
    return "\n".join(["usage: hetpure COMMAND ...", "", *lines, "", "hetpure COMMAND --help says more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    about = COMMANDS[name]
    command = import_module(f"hetpure_lab.{about.module}")
    try:
        return command.main([*about.first, *rest]) or 0
    except BrokenPipeError:
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
