"""Run chapters and keep their outputs: ``hetpure chapters [chapters/05_cifar10.ipynb ...]``.

All are run if none is named. A chapter is executed again only if its code, or something that its
last run read, has changed.

The book shows the committed notebooks, so they must be whole: executed from top to bottom
in a fresh kernel, one thread, no progress bars, no timings, and no metadata but tags and
alternative texts, so that a rerun changes only what changed. Every picture has its sidecar in the
metadata of its output: the cell that draws it, its records and the commit at which it was last
drawn anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from hetpure_lab.common.paths import ROOT
from hetpure_lab.common.progress import bar
from hetpure_lab.evidence.records import provenance
from hetpure_lab.report.notebook import duration

CHAPTERS = ROOT / "chapters"
READ = CHAPTERS / "read.json"  # what the last run of every chapter read
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
KEPT_METADATA = ("tags", "mystnb")
PICTURES = {"image/svg+xml", "image/png"}
RUN_TIME, SAID = "**Run time.**", re.compile(r"bout (\d+) (second|minute|hour)")
UNITS = {"second": 1, "minute": 60, "hour": 3600}


WATCH = "--IPKernelApp.exec_lines=import hetpure_lab.report.watch"


def execute(path: Path, timeout: int = 3600) -> list[str]:
    """Execute a notebook in its folder and write it back; it is left as it was if a cell fails.

    A cell keeps its id for ever, so that a change of a few lines is a change of a few lines.
    Returns what the run read: files of the checkout, and folders of records whole.
    """
    notebook, started = nbformat.read(path, as_version=4), time.time()
    before = dict(pictures(notebook))
    options = {
        "timeout": timeout,
        "kernel_name": "python3",
        "record_timing": False,
        "coalesce_streams": True,
    }
    client = NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, **options)
    with tempfile.NamedTemporaryFile("r") as log:
        client.extra_arguments, os.environ["HETPURE_WATCH"] = [WATCH], log.name
        client.execute()
        read = dependencies(log.read().splitlines())
    say_run_time(notebook, time.time() - started)
    notebook.metadata = KERNEL
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT_METADATA}
        if cell.cell_type == "code":
            cell.outputs = [
                o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")
            ]
    add_sidecars(notebook, path.name, before)
    nbformat.write(notebook, path)
    return read


def say_run_time(notebook: nbformat.NotebookNode, seconds: float) -> None:
    """Write into the line ``**Run time.** ...`` how long the chapter took, if it changed by more
    than a half.
    """
    for cell in notebook.cells[:1]:
        for line in cell.source.splitlines():
            if line.startswith(RUN_TIME):
                new = (
                    f"{RUN_TIME} {duration(seconds).capitalize()} with these settings, on one core."
                )
                said = SAID.search(line)
                if not said or not 2 / 3 < seconds / (int(said[1]) * UNITS[said[2]]) < 3 / 2:
                    cell.source = cell.source.replace(line, new)


def dependencies(opened: Sequence[str]) -> list[str]:
    """Of `opened` files those of the checkout that are not made by running; one record stands for
    its whole folder.
    """
    found = set()
    for path in (Path(name) for name in opened):
        if not path.is_relative_to(ROOT):
            continue
        if path.suffix == ".pyc":
            path = path.parent.parent / f"{path.name.partition('.')[0]}.py"
        name = path.relative_to(ROOT)
        if name.parts[0] in ("hetpure_core.py", "hetpure_lab", "weights", "figures"):
            found.add(name.as_posix())
        elif name.parts[0] == "results":
            found.add(name.parent.as_posix() if len(name.parts) > 2 else name.as_posix())
    return sorted(found)


def digest(path: Path, read: Sequence[str]) -> str:
    """Of a chapter's code and of everything that its run `read`."""
    cells = nbformat.read(path, as_version=4).cells
    parts = [cell.source.encode() for cell in cells if cell.cell_type == "code"]
    for name in read:
        place = ROOT / name
        files = sorted(place.glob("*")) if place.is_dir() else [place]
        parts += [part for f in files if f.is_file() for part in (f.name.encode(), f.read_bytes())]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[
        :16
    ]


def known() -> dict[str, dict]:
    """By chapter: what its last run read, and the digest of that."""
    return json.loads(READ.read_text()) if READ.exists() else {}


def stale(path: Path, last: dict[str, dict]) -> bool:
    """Whether a chapter, or something that its last run read, has changed since."""
    about = last.get(path.name)
    return about is None or about["digest"] != digest(path, about["read"])


def pictures(notebook: nbformat.NotebookNode) -> Iterator[tuple[tuple[str, str], dict]]:
    """Every picture (cell, data) of a notebook and what its output's metadata say of it, empty if
    nothing.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in PICTURES & output.get("data", {}).keys():
                yield (
                    (cell.id, output.data[kind]),
                    output.metadata.setdefault(kind, nbformat.NotebookNode()),
                )


def add_sidecars(
    notebook: nbformat.NotebookNode, name: str, before: dict[tuple[str, str], dict]
) -> None:
    """Complete the metadata of every picture; one that has not changed keeps the commit that it had
    `before`.
    """
    for key, sidecar in pictures(notebook):
        sidecar["function"] = f"chapters/{name}#{key[0]}"
        sidecar["commit"] = before.get(key, {}).get("commit", provenance()["commit"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure chapters", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(CHAPTERS.glob("*.ipynb")))
    parser.add_argument(
        "--all", action="store_true", help="also those that nothing they read has changed"
    )
    args = parser.parse_args(argv)
    shown = bar(args.notebooks, "chapters", len(args.notebooks) < 2)
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    for path in shown:
        if not args.all and not stale(path, known()):
            tqdm.write(f"{path.name}: up to date", file=sys.stderr)
            continue
        started = time.time()
        read = execute(path.resolve())
        about = {"digest": digest(path, read), "read": read}
        READ.write_text(json.dumps(known() | {path.name: about}, indent=1, sort_keys=True) + "\n")
        tqdm.write(f"{path.name}: {time.time() - started:.0f} s", file=sys.stderr)
