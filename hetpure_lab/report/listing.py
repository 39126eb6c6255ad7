"""What there is, by name: ``hetpure list defences``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from hetpure_lab.attacks import ATTACKS, PRESETS
from hetpure_lab.common import names, specs
from hetpure_lab.data import DATASETS
from hetpure_lab.defences import DEFENCES, capabilities
from hetpure_lab.networks import checkpoints
from hetpure_lab.networks.benches import BENCHES
from hetpure_lab.networks.small import NETWORKS

Row = dict[str, Any]


def settings(kind: type | None) -> str:
    """The settings of a class with their defaults, as a spec writes them."""
    found = {} if kind is None else {f.name: getattr(kind, f.name, "") for f in fields(kind)}
    shown = ("+".join(map(str, v)) if isinstance(v, tuple) else v for v in found.values())
    return ",".join(f"{name}={value}" for name, value in zip(found, shown))


def defences() -> Iterator[Row]:
    """Every defence with its family, whether it is random, and its settings."""
    for slug, kind in DEFENCES.items():
        declared = capabilities(slug)
        known = {"family": declared.family, "random": declared.randomised}
        yield {"name": slug, "says": names.defence(slug), **known, "settings": settings(kind)}


def attacks() -> Iterator[Row]:
    """Every attack with its settings, and the presets."""
    for slug, kind in ATTACKS.items():
        yield {"name": slug, "says": names.attack(slug), "settings": settings(kind)}
    for name, preset in PRESETS.items():
        spec = specs.readable(specs.describe(preset, ATTACKS))
        yield {"name": name, "says": f"short for {spec}", "settings": ""}


def benches() -> Iterator[Row]:
    """Every bench with its scale, data set and default method."""
    for name, bench in BENCHES.items():
        method = specs.describe(bench.method, DEFENCES)
        known = {"scale": bench.scale, "data": bench.dataset, "settings": method}
        yield {"name": name, "says": names.bench(name), **known}


def networks() -> Iterator[Row]:
    """The kinds of network that a card may name, and the published networks that can be fetched."""
    for name in NETWORKS:
        yield {"name": name, "says": "an architecture of this project"}
    for name, about in checkpoints.CATALOGUE.items():
        says = f"published, {about.licence}"
        yield {"name": name, "says": says, "network": about.network, "origin": about.origin}


def datasets() -> Iterator[Row]:
    """Every data set with its classes and image size."""
    for name, about in DATASETS.items():
        yield {
            "name": name,
            "says": f"{about.n_classes} classes, {about.size} x {about.size} pixels",
        }


KINDS: dict[str, Callable[[], Iterator[Row]]] = {
    "defences": defences,
    "attacks": attacks,
    "benches": benches,
    "networks": networks,
    "datasets": datasets,
}


def text(rows: Sequence[Row]) -> str:
    """One line each: name, what it is, and what it can be told."""
    wide = max(len(row["name"]) for row in rows)
    lines = (f"{row['name']:{wide}}  {row['says']}  {row.get('settings', '')}" for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure list", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(argv)
    rows = list(KINDS[args.kind]())
    print(json.dumps(rows, indent=1) if args.json else text(rows))
