"""Every numbered element of the paper and its place in the book: ``hetpure elements --json``.

The state of an element is not typed: it follows from chapters, functions and records.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hetpure_lab.common import specs
from hetpure_lab.common.paths import RESULTS, ROOT
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import ablations, files, read, studies
from hetpure_lab.paper.printed import TABLES, Claim, Table
from hetpure_lab.paper.protocols import attack_of

STATUSES = ("planned", "partly", "done")


@dataclass(frozen=True)
class Element:
    """A numbered element of the paper and its counterpart here.

    `chapters` deal with it; `functions` are names in `hetpure_core`, or ``module.name`` in
    `hetpure_lab`; `labels` are this book's equations; `grids` are the ablations whose points it
    shows, `study` the numbers it draws (`studies`); `parts` are the elements inside an appendix
    section.
    """

    name: str
    says: str
    chapters: tuple[int, ...] = ()
    functions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    grids: tuple[str, ...] = ()
    study: str = ""
    parts: tuple[str, ...] = ()


def _table(number: int, chapter: int, says: str, *functions: str) -> Element:
    return Element(
        f"Table {number}", says, (chapter,), functions or ("report.tables.beside_the_paper",)
    )


ELEMENTS = {
    e.name: e
    for e in (
        Element(
            "Eq 1",
            "noise an image to {math}`t_l` and to {math}`t_s`",
            (1, 3),
            ("q_xt_x0",),
            ("eq-forward",),
        ),
        Element(
            "Eq 2",
            "p-norm of a block's activations over channels",
            (2,),
            ("activation_map",),
            ("eq-pnorm",),
        ),
        Element(
            "Eq 3",
            "attention map: upsample, then scale (E2)",
            (2,),
            ("attention_maps", "min_max", "spatial_softmax"),
            ("eq-maps", "eq-minmax", "eq-softmax"),
        ),
        Element(
            "Eq 4", "mask: union of the thresholded maps", (2,), ("threshold_mask",), ("eq-mask",)
        ),
        Element(
            "Eq 5",
            "heterogeneous noise: one level inside the mask, one outside",
            (3,),
            ("merge",),
            ("eq-merge",),
        ),
        Element(
            "Eq 6", "the known pixels at time {math}`t`", (1, 3), ("q_xt_x0",), ("eq-forward",)
        ),
        Element(
            "Eq 7", "the unknown pixels: one reverse step", (1, 3), ("p_xs_xt",), ("eq-reverse",)
        ),
        Element("Eq 8", "merge both (E1)", (3,), ("merge",), ("eq-merge",)),
        Element(
            "Eq 9", "stage 2: the plain reverse process", (1, 3), ("p_xs_xt",), ("eq-reverse",)
        ),
        Element(
            "Eq 10",
            "diffuse on, from {math}`t` to a later time (E4)",
            (3, 4),
            ("q_xt_xs",),
            ("eq-renoise",),
        ),
        Element(
            "Eq 11",
            "one DDIM step back over {math}`U` indices (E3, E5)",
            (1, 4),
            ("x0_xt", "p_xs_xt"),
            ("eq-x0", "eq-reverse"),
        ),
        Element(
            "Alg 1",
            "heterogeneous denoising (E3, E6)",
            (3, 1),
            ("HetPure", "time_grid", "trajectory"),
        ),
        Element("Alg 2", "mask construction (E11)", (2,), ("attention_maps", "threshold_mask")),
        Element(
            "Alg 3", "purify {math}`S` times and vote (E12)", (3,), ("vote", "Purified", "purify")
        ),
        _table(1, 5, "CIFAR-10, {math}`\\ell_\\infty`, WRN-28-10, PGD+EOT and AutoAttack"),
        _table(2, 5, "CIFAR-10, {math}`\\ell_\\infty`, WRN-70-16"),
        _table(3, 5, "CIFAR-10, {math}`\\ell_2`, WRN-28-10"),
        _table(4, 5, "CIFAR-10, {math}`\\ell_2`, WRN-70-16"),
        _table(5, 5, "CIFAR-10, BPDA+EOT"),
        _table(6, 7, "ImageNet, PGD+EOT"),
        _table(7, 8, "which blocks feed the mask", "evidence.ablations.against"),
        _table(8, 6, "SVHN, PGD+EOT"),
        Element(
            "Fig 1",
            "weak, strong and heterogeneous noise on one image",
            (9,),
            ("evidence.inside.ends",),
        ),
        Element("Fig 2", "the pipeline", (9,), ("report.figures.pipeline",)),
        Element(
            "Fig 3",
            "what {math}`U` does to an inpainted region",
            (9, 4),
            ("evidence.inside.seam", "report.figures.consistency"),
            study="consistency",
        ),
        Element(
            "Fig 4",
            "purification paths in two dimensions",
            (9,),
            ("evidence.inside.path", "evidence.inside.project"),
        ),
        Element(
            "Fig 5",
            "attention maps, masks, purified images",
            (9,),
            ("attention_maps", "threshold_mask"),
        ),
        Element(
            "Fig 6", "joint distribution of original and purified", (9,), ("report.figures.joint",)
        ),
        Element(
            "Fig 7",
            "accuracy against {math}`\\tau` and against {math}`t_l`, {math}`t_s`",
            (8,),
            ("report.figures.threshold", "report.figures.levels"),
            grids=("tau", "levels"),
        ),
        Element(
            "Fig 8",
            "time and memory of single-step and multi-step resampling",
            (10,),
            (
                "common.measure.LiveBytes",
                "common.measure.measure",
                "report.figures.cost",
                "report.figures.savings",
            ),
            study="cost",
        ),
        Element(
            "Fig 9",
            "feature distance between original and purified images",
            (9,),
            ("evidence.inside.features", "evidence.inside.distance", "report.figures.distances"),
            study="distance",
        ),
        Element("Sec 7", "cost in time and memory", parts=("Fig 8",)),
        Element("Sec 8", "SVHN", parts=("Table 8",)),
        Element("Sec 9", "algorithms", parts=("Alg 2", "Alg 3")),
        Element("Sec 10", "why a distance between features", parts=("Fig 9",)),
    )
}


def chapter(number: int) -> Path | None:
    """The notebook of a chapter, if it exists: its first, if it has pages beside it."""
    return min((ROOT / "chapters").glob(f"{number:02d}_*.ipynb"), default=None)


@cache
def source(path: Path) -> str:
    """The source of all cells of a chapter."""
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


def exists(function: str) -> bool:
    """Whether a function that an element names is there."""
    *module, name = function.split(".")
    home = importlib.import_module(".".join(["hetpure_lab", *module]) if module else "hetpure_core")
    return hasattr(home, name)


# bench, norm, radius (rounded, so that it can be a key), attack by its slug
Place = tuple[str, str, float, str]


def place(bench: str, norm: str, eps: float, attack: str) -> Place:
    """The place of a number: only measurements of the same place may stand beside it."""
    return bench, norm, round(eps, 6), attack


@cache
def measured_cells(results: Path) -> dict[tuple[Place, str], list[Path]]:
    """The files of every (place, defence) that has records of the current weights."""
    found: dict[tuple[Place, str], list[Path]] = {}
    for path in files(results):
        config = next(iter(read(path).values()))["config"]
        found.setdefault((place_of(config), specs.write(config["defence"], DEFENCES)), []).append(
            path
        )
    return found


def place_of(config: dict) -> Place:
    """The place of an experiment, from its records' settings."""
    attack = config["attack"]
    return place(config["bench"], attack["norm"], attack["eps"], attack["name"])


def cells(table: Table) -> list[tuple[Place, str]]:
    """What a table needs measured, as `measured_cells`: one entry per row and attack for which the
    paper prints a number, at its radius, and at the radius of every quoted row the method, which
    the paper has not.

    A row with a reason why nothing measures it here needs nothing. A table whose bench is of the
    paper's scale is measured on its small one, where one adversarially trained network stands for
    that of Gowal et al. 2020, and the others have none.
    """
    bench = table.small or table.bench
    where = lambda row, attack: place(
        bench, table.norm, row.eps or table.radius, attack_of(attack, bench)
    )
    pairs = [
        (row, attack, measured)
        for row in table.rows
        if (measured := _measured_as(row, table))
        for attack, value in zip(table.attacks, row.robust)
        if value != "-"
    ]
    meetings = [(where(row, attack), table.rows[-1].ours) for row, attack, _ in pairs if row.eps]
    own = [(where(row, attack), measured) for row, attack, measured in pairs]
    return list(dict.fromkeys(own + meetings))


def _measured_as(row: Claim, table: Table) -> str:
    """The spec that measures a row on the bench of `cells`, or ""."""
    if not table.small or row.kind != "AT":
        return row.ours
    trained = {"Linf": "at", "L2": "at:model=pgd-at-l2"}[table.norm]
    return trained if row.method == "Gowal et al. 2020" else ""


def needed(element: Element, results: Path = RESULTS) -> list[list[Path]]:
    """The files behind each thing that an element shows; an empty list where a thing has no record
    yet.

    Things are the cells of a table, the points of a figure's grids, its study.
    """
    if element.study:
        paths = [studies.path(element.study, "cifar10-small", results=results)]
    else:
        paths = [
            e.path(results) for name in element.grids for e in ablations.experiments(name).values()
        ]
    if element.name in TABLES and not paths:
        return [measured_cells(results).get(cell, []) for cell in cells(TABLES[element.name])]
    return [[path] if path.exists() else [] for path in paths]


def share(element: Element, results: Path = RESULTS) -> float:
    """How much of what an element shows is measured (`needed`); 1 if it needs no records, which
    only a table always does.
    """
    things = needed(element, results)
    return (
        sum(map(bool, things)) / len(things)
        if things
        else float(not element.name.startswith("Table"))
    )


def status(element: Element, results: Path = RESULTS) -> str:
    """What state an element is in.

    ``done``: its chapters use its functions and define its equations, and all it shows is measured.
    ``planned``: no chapter, or nothing measured yet. ``partly``: what lies between.
    """
    if element.parts:
        return min((status(ELEMENTS[part], results) for part in element.parts), key=STATUSES.index)
    paths = [chapter(number) for number in element.chapters]
    if (
        not paths[0]
        or not all(map(exists, element.functions))
        or not (measured := share(element, results))
    ):
        return "planned"
    text = "\n".join(source(path) for path in paths if path)
    shown = all(name.rpartition(".")[2] in text for name in element.functions) and all(
        label in text for label in element.labels
    )
    return "done" if shown and measured == 1 and all(paths) else "partly"


def listing(results: Path = RESULTS) -> list[dict]:
    """Every element as a row."""
    rows = (
        (
            e,
            e.chapters
            or tuple(dict.fromkeys(c for part in e.parts for c in ELEMENTS[part].chapters)),
        )
        for e in ELEMENTS.values()
    )
    return [
        {
            "element": e.name,
            "chapter": chapters[0],
            "chapters": list(chapters),
            "says": e.says,
            "functions": list(e.functions),
        }
        | {
            "labels": list(e.labels),
            "parts": list(e.parts),
            "measured": round(share(e, results), 3),
            "status": status(e, results),
        }
        | {
            "records": sorted(
                {
                    path.relative_to(results).as_posix()
                    for files in needed(e, results)
                    for path in files
                }
            )
        }
        for e, chapters in rows
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure elements", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(argv)
    rows = listing()
    lines = (f"{row['element']:9} chapter {row['chapter']:2}  {row['status']}" for row in rows)
    print(json.dumps(rows, indent=1, ensure_ascii=False) if args.json else "\n".join(lines))
