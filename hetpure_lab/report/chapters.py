"""Run chapters and keep their outputs: ``hetpure chapters [chapters/05_cifar10.ipynb ...]`` (all if none is named).

The committed notebooks are what the book shows, so they must be whole: executed from top to bottom in a fresh kernel, one thread,
no progress bars, no timings, and no metadata but tags and alternative texts, so that a rerun changes only what changed. Every picture has
its sidecar in the metadata of its output: the cell that draws it, its records and the commit at which it was last drawn anew.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from hetpure_lab.common.paths import ROOT
from hetpure_lab.evidence.records import provenance

CHAPTERS = ROOT / "chapters"
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
KEPT_METADATA = ("tags", "mystnb")
PICTURES = {"image/svg+xml", "image/png"}


def execute(path: Path, timeout: int = 3600) -> None:
    """Execute a notebook in its folder and write it back; it is left as it was if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    before = dict(pictures(notebook))
    options = {"timeout": timeout, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, **options).execute()
    notebook.metadata = KERNEL
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:03d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT_METADATA}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
    add_sidecars(notebook, path.name, before)
    nbformat.write(notebook, path)


def pictures(notebook: nbformat.NotebookNode) -> Iterator[tuple[tuple[str, str], dict]]:
    """Every picture (cell, data) of a notebook and what its output's metadata say of it, empty if nothing."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in PICTURES & output.get("data", {}).keys():
                yield (cell.id, output.data[kind]), output.metadata.setdefault(kind, nbformat.NotebookNode())


def add_sidecars(notebook: nbformat.NotebookNode, name: str, before: dict[tuple[str, str], dict]) -> None:
    """Complete the metadata of every picture; one that has not changed keeps the commit that it had `before`."""
    for key, sidecar in pictures(notebook):
        sidecar["function"] = f"chapters/{name}#{key[0]}"
        sidecar["commit"] = before.get(key, {}).get("commit", provenance()["commit"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hetpure chapters", description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(CHAPTERS.glob("*.ipynb")))
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    for path in parser.parse_args(argv).notebooks:
        started = time.time()
        execute(path.resolve())
        print(f"{path.name}: {time.time() - started:.0f} s", file=sys.stderr)
