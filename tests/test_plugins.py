"""A purifier, an attack, a bench, a data set and a network of somebody else's: one file, from a
folder that this project does not know.

The file stands here as a plug-in's author would write it. It runs through the command, an attack,
the audit, the cost plan and a table, in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetpure_lab.cli import main
from hetpure_lab.evidence.records import read

PLUGIN = '''
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hetpure_core import HetPure
from hetpure_lab.attacks import Attack, loss_and_gradient, register as attack
from hetpure_lab.data import DATASETS, DataSet, Images
from hetpure_lab.defences import Capabilities, register as defence
from hetpure_lab.networks.benches import BENCHES, Own
from hetpure_lab.networks.small import NETWORKS


@defence("blur", Capabilities(randomised=False))
@dataclass(frozen=True)
class Blur:
    """A blur of `size` pixels: no noise, no call."""

    size: int = 3
    weight: float | None = None

    def mask(self, images, classifier, taps, noise):
        return None

    def plan(self, x_adv, mask, eps, noise, schedule):
        weight = 1.0 if self.weight is None else self.weight
        blurred = lambda x: F.avg_pool2d(x, self.size, 1, self.size // 2)
        return [(0, lambda x: (1 - weight) * x + weight * blurred(x))]

    def calls(self, schedule):
        return 0


@attack("one-step")
@dataclass(frozen=True)
class OneStep(Attack):
    """One step of the size of the ball."""

    iterations: int = 1
    eot: int = 2

    def run(self, defence, images, labels, ids, seed=0, tick=lambda k: None):
        _, gradient = loss_and_gradient(defence, images, labels, ids, range(self.eot))
        tick(len(images))
        ones = torch.ones(len(images), dtype=torch.long)
        return self.project(images + self.eps * gradient.sign(), images), ones


def read(folder, dataset, split):
    """Twelve squares in three colours, wherever they are asked for."""
    pixels = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    for i in range(12):
        pixels[i, i % 3, 1 : 3 + i // 2, 1:7] = 200 + i
    return Images(pixels, torch.arange(12) % 3, torch.ones(12, dtype=torch.bool), "squares")


DATASETS.add("squares", DataSet("squares", 3, 8, "", read=read, classes=("red", "green", "blue")))


class Colours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1, bias=False)
        torch.nn.init.eye_(self.conv.weight[..., 0, 0])

    def forward(self, x):
        return self.conv(x).mean((2, 3)) * 20

    def taps(self):
        return [self.conv]


class Shrink(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t):
        return self.scale * x


NETWORKS.add("colours", Colours)
networks = lambda device: (NETWORKS["colours"](), Shrink())
BENCHES.add("squares-mine", Own("squares", networks, ("red", "green", "blue"), HetPure(steps=4)))
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the plug-in and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "mine.py").write_text(PLUGIN)
    (folder / "squares").mkdir()
    return folder


@pytest.fixture(scope="module")
def hetpure(home, root):
    """The command, run in that folder with the plug-in."""

    def run(*words: str, plugin: str = "mine.py", code: int = 0) -> subprocess.CompletedProcess:
        options = ("--plugin", plugin) if plugin else ()
        given = {"PYTHONPATH": str(root), "HETPURE_RESULTS": str(home / "results")}
        given |= {"HETPURE_DATA": str(home), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "hetpure_lab", *words, *options],
            cwd=home,
            env={k: v for k, v in os.environ.items() if k != "HETPURE_PLUGINS"} | given,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, done.stderr
        return done

    return run


RUN = ("--bench", "squares-mine", "--n-images", "6", "--K", "2")


@pytest.fixture(scope="module")
def records(home, hetpure) -> Path:
    """Records of the plug-in's purifier and of the method under the plug-in's attack."""
    for defence in ("blur:size=5", "hetpure"):
        hetpure("run", *RUN, "--defence", defence, "--attack", "one-step")
    return home / "results"


def test_without_the_plugin_its_names_are_unknown_in_a_sentence(hetpure):
    words = ("run", "--defence", "blur", "--attack", "pgd", "--n-images", "1")
    said = hetpure(*words, plugin="", code=2).stderr
    assert (
        "error: unknown 'blur'; known: none, uniform, hetpure" in said and "Traceback" not in said
    )


def test_a_plugin_that_is_not_there_is_a_sentence(capsys):
    assert main(["list", "defences", "--plugin", "gone.py"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is no plug-in") and said.count("\n") == 1
    assert main(["list", "defences", "--plugin"]) == 2


def test_the_command_runs_the_plugin_and_goes_on_where_it_was(records, hetpure):
    (file,) = records.glob("squares-mine/blur*one-step*.jsonl")
    found, text = read(file), file.read_text()
    assert len(found) == 6
    first = next(iter(found.values()))
    assert first["config"]["defence"] == {"name": "blur", "size": 5, "weight": None}
    assert first["config"]["weights"].keys() == {"squares-mine-classifier", "squares-mine-denoiser"}
    hetpure("run", *RUN, "--defence", "blur:size=5", "--attack", "one-step")
    assert file.read_text() == text


def test_the_listing_and_the_audit_know_its_records(records, hetpure):
    rows = json.loads(hetpure("experiments", "--json").stdout)
    assert {row["defence"] for row in rows} == {"blur:size=5", "hetpure"}
    said = hetpure("audit", "--bench", "squares-mine", "--defence", "blur:size=5", "--records-only")
    assert "hetpure run --bench squares-mine --defence blur:size=5 --attack pgd" in said.stdout


def test_the_cost_of_its_bench_is_planned(hetpure):
    said = json.loads(
        hetpure(
            "cost", "--bench", "squares-mine", "--budget", "smoke", "--on", "H100", "--json"
        ).stdout
    )
    assert said["bench"] == "squares-mine"


TABLE = """
from hetpure_lab.report import listing, tables
from hetpure_lab.cost import planner
from hetpure_lab.defences import DEFENCES
from hetpure_lab.common import specs
from pathlib import Path
rows = tables.evidence_rows("squares-mine", attack="one-step", results=Path("results"))
print(sorted(r["defence"] for r in rows))
print(planner.unpriced(specs.parse("blur", DEFENCES)[1], "squares-mine") == "")
print(tables.cost("blur"))
for kind in ("defences", "attacks", "benches", "networks", "datasets"):
    print(kind, *(row["name"] for row in listing.KINDS[kind]()))
"""


def test_tables_and_lists_have_its_rows_in_a_process_that_was_told_by_the_environment(
    records, home, root
):
    given = {"PYTHONPATH": str(root), "HETPURE_PLUGINS": str(home / "mine.py")}
    done = subprocess.run(
        [sys.executable, "-c", TABLE],
        cwd=home,
        env=os.environ | given,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:3] == ["['blur:size=5', 'hetpure']", "True", "0"]
    added = ["blur", "one-step", "squares-mine", "colours", "squares"]
    assert all(name in line.split() for name, line in zip(added, said[3:], strict=True))


def test_a_worker_loads_the_plugin_before_it_works(home, root):
    """What `workers.each` asks of a process that knows nothing."""
    code = (
        "import os; from hetpure_lab.common import plugins\nfrom hetpure_lab.defences import"
        f" DEFENCES\nprint(plugins.using([{str(home / 'mine.py')!r}], lambda name: name in"
        " DEFENCES, 'blur'))\nprint(os.environ['HETPURE_PLUGINS'].endswith('mine.py'))"
    )
    env = {k: v for k, v in os.environ.items() if k != "HETPURE_PLUGINS"} | {
        "PYTHONPATH": str(root)
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "True"], done.stderr
