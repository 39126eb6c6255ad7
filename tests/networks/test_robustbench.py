"""Published adversarially trained networks: RobustBench's loader is asked for the right one, and
its files are checked.
"""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from hetpure_lab import defences
from hetpure_lab.evidence import Experiment
from hetpure_lab.networks import benches, checkpoints, fetch, robustbench
from hetpure_lab.networks.checkpoints import CheckpointError

NAME = "robustbench/cifar10/L2/Tiny2026"


class TinyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, x):
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def library(monkeypatch, tmp_path):
    """A stand-in for RobustBench with one network, as its loader behaves: it downloads what is not
    there. Returns what it was asked for.
    """
    asked = []

    def load_model(model_name, model_dir="./models", dataset="cifar10", threat_model="Linf"):
        known = {("cifar10", "L2"): {"Tiny2026": TinyNet}}
        network = known[dataset, threat_model][model_name]()
        path = model_dir / dataset / threat_model / f"{model_name}.pt"
        asked.append((model_name, dataset, threat_model, path.exists()))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(network.state_dict(), path)
        network.load_state_dict(torch.load(path, weights_only=True))
        return network

    monkeypatch.setenv("HETPURE_CHECKPOINTS", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints, "RECORDED", tmp_path / "published.json")
    monkeypatch.setitem(sys.modules, "robustbench", types.ModuleType("robustbench"))
    monkeypatch.setitem(
        sys.modules, "robustbench.utils", types.SimpleNamespace(load_model=load_model)
    )
    return asked


def test_nothing_is_downloaded_unless_asked(library):
    with pytest.raises(benches.BenchError, match="hetpure fetch robustbench/cifar10/L2/Tiny2026"):
        benches.load_network(NAME)
    with pytest.raises(benches.BenchError, match="never used here"):
        benches.card(NAME)
    assert library == []


def test_a_fetched_network_defends_by_changing_one_parameter(library):
    robustbench.fetch(NAME)
    assert library == [("Tiny2026", "cifar10", "L2", False)]
    defence = defences.build("at:model=L2/Tiny2026", benches.load("cifar10-small"))
    assert library[1:] == [("Tiny2026", "cifar10", "L2", True)]
    assert defence(torch.rand(2, 3, 32, 32)).shape == (2, 10) and not any(
        p.requires_grad for p in defence.parameters()
    )
    experiment = Experiment(
        "at:model=L2/Tiny2026", "pgd:norm=L2,eps=0.5,step=0.05", "cifar10-paper"
    )
    assert experiment.config["weights"] == {
        NAME: checkpoints.sha256(robustbench.path_of(NAME))[:16]
    }


def test_a_file_that_changed_since_its_first_use_is_refused(library):
    path = robustbench.fetch(NAME)
    torch.save({k: v + 1 for k, v in torch.load(path, weights_only=True).items()}, path)
    with pytest.raises(benches.BenchError, match="damaged or another file.*recorded on first use"):
        benches.load_network(NAME)


def test_unknown_networks_and_names_are_refused(library):
    with pytest.raises(
        checkpoints.CheckpointError, match="RobustBench has no 'Huge2027' for cifar10, L2"
    ):
        robustbench.fetch("robustbench/cifar10/L2/Huge2027")
    for name in (
        "robustbench/svhn/Linf/Tiny2026",
        "robustbench/cifar10/Tiny2026",
        "robustbench/cifar10/corruptions/Tiny2026",
    ):
        with pytest.raises(checkpoints.CheckpointError, match="is no network of RobustBench"):
            robustbench.path_of(name)


def test_without_robustbench_the_error_says_how_to_install_it(library, monkeypatch):
    robustbench.fetch(NAME)
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)
    with pytest.raises(benches.BenchError, match=r"needs RobustBench.*pip install '\.\[paper\]'"):
        benches.load_network(NAME)


def test_the_command_line_downloads_and_prints_the_digest(library, capsys):
    fetch.main([NAME])
    assert checkpoints.sha256(robustbench.path_of(NAME)) in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="RobustBench has no"):
        fetch.main(["robustbench/cifar10/L2/Huge2027"])
