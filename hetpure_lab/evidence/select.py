"""Records selected and summarised: the files that count, and each experiment as a row."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import specs, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence.outcomes import COLUMNS, RULES, Outcomes
from hetpure_lab.evidence.records import lacks, read
from hetpure_lab.networks import benches


def summary(path: Path) -> dict:
    """One experiment as a row: settings, n, and accuracies with 95 % intervals."""
    records = read(path)
    config, outcomes = next(iter(records.values()))["config"], Outcomes.of(records)
    attack = config["attack"]
    row = {
        "bench": config["bench"],
        "defence": specs.write(config["defence"], DEFENCES),
        "attack": specs.write(attack, ATTACKS),
    }
    row |= {k: attack[k] for k in ("norm", "gradient", "eps", "iterations", "eot")}
    row |= {"K": config["K"], "seed": config["seed"], "n": len(records), "data": config["split"]}
    row |= {"weights": config["weights"], "file": path.name}
    for column in COLUMNS:
        for rule in RULES:
            accuracy = outcomes.accuracy(column, rule)
            row[f"{column}_{rule}"] = None if accuracy is None else asdict(accuracy)
    return row


def over_seeds(
    bench: str, column: str = "adversarial", results: Path = RESULTS
) -> dict[str, stats.Spread]:
    """Run-to-run and image-to-image variation of every experiment of a bench that ran with several
    seeds, by its first file's name.
    """
    groups: dict[str, dict[str, dict[str, dict]]] = {}
    for path in files(results):
        records = read(path)
        config = next(iter(records.values()))["config"]
        if config["bench"] != bench:
            continue
        names = {
            "defence": specs.write(config["defence"], DEFENCES),
            "attack": specs.write(config["attack"], ATTACKS),
            "seed": None,
        }
        groups.setdefault(json.dumps(config | names, sort_keys=True), {})[path.name] = records
    return {
        next(iter(runs)): _spread(list(runs.values()), column)
        for runs in groups.values()
        if len(runs) > 1
    }


def _spread(runs: list[dict[str, dict]], column: str) -> stats.Spread:
    shared = [key for key in runs[0] if all(key in run for run in runs)]
    return stats.spread(
        np.stack(
            [Outcomes.of({key: run[key] for key in shared}).correct(column).mean(1) for run in runs]
        )
    )


def current(path: Path) -> bool:
    """Whether a file's records were made with the weights that are in the repository now.

    A file that holds no experiment, or one of which something is unknown here, does not count, and
    a warning says so.
    """
    record = next(iter(read(path).values()), None)
    if record is None:
        return False
    if missing := lacks(record):
        warnings.warn(f"{path}: no file of an experiment ({missing}); not listed", stacklevel=2)
        return False
    config = record["config"]
    try:
        specs.write(config["defence"], DEFENCES), specs.write(config["attack"], ATTACKS)
        return all(benches.is_current(k, v) for k, v in config["weights"].items())
    except (ValueError, KeyError, TypeError) as error:
        says = f"unknown {error}" if isinstance(error, KeyError) else error
        warnings.warn(f"{path}: {says}; not listed", stacklevel=2)
        return False


def files(results: Path = RESULTS) -> list[Path]:
    """All record files of the current weights."""
    return [path for path in sorted(results.glob("*/*.jsonl")) if current(path)]
