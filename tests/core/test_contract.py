"""What `hetpure_core` promises to other people's networks, images, threads and copies."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hetpure_core
from hetpure_core import (
    HetPure,
    Noise,
    Purified,
    Schedule,
    Uniform,
    attention_maps,
    check_images,
    frozen,
    linear_schedule,
    purify,
    tapped,
    threshold_mask,
    vote,
)

IDS = ["ship", 7, 40, "frog"]
QUICK = Uniform(0.1, 2)
GREY = torch.full((1, 1, 2, 2), 0.5)
METHOD = HetPure(tau=0.5, steps=4)


# ---- any callable is a network -------------------------------------------------------------------


def test_functions_are_networks(images, classifier, denoiser):
    """The logits and gradients are those of the modules that the functions call."""
    classifier.eval(), denoiser.eval()
    taps = classifier.taps()
    plain = Purified(lambda x: classifier(x), lambda x, t: denoiser(x, t), METHOD, taps=taps)
    answers = []
    for defended in (plain, Purified(classifier, denoiser, METHOD)):
        x = images.clone().requires_grad_()
        logits = defended(x, IDS)
        answers += [logits, torch.autograd.grad(logits.square().sum(), x)[0]]
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[1], answers[3])
    assert torch.equal(
        purify(images, lambda x: classifier(x), denoiser, METHOD, taps=taps),
        purify(images, classifier, denoiser, METHOD),
    )


def test_taps_are_needed_only_by_a_purifier_that_looks(images, classifier, denoiser):
    """Without them the message lists the modules that could serve, and these do."""
    bare = nn.Sequential(OrderedDict(net=classifier, soft=nn.LogSoftmax(1)))
    assert Purified(bare, denoiser, QUICK)(images, IDS).shape == (4, 5)
    with pytest.raises(
        ValueError,
        match=r"at least one tap, .*could serve: net\.block1, net\.block2, net\.block1\.0",
    ) as error:
        Purified(bare, denoiser, METHOD)(images, IDS)
    for name in str(error.value).split(": ")[1].split(", "):
        assert Purified(bare, denoiser, METHOD, taps=[name])(images, IDS).isfinite().all()
    with pytest.raises(ValueError, match="the modules inside your function"):
        Purified(lambda x: classifier(x), denoiser, METHOD)(images, IDS)


def test_taps_may_be_named(images, classifier, denoiser):
    named, given = (
        Purified(classifier, denoiser, METHOD, taps=t) for t in (["block2"], [classifier.block2])
    )
    assert torch.equal(named(images, IDS), given(images, IDS))
    assert torch.equal(
        Purified(classifier, denoiser, METHOD, taps="block2")(images, IDS), given(images, IDS)
    )
    for wrong in (["block3"], [3], "layer"):
        with pytest.raises(
            ValueError,
            match="taps must be modules of the classifier or their names, not .*; it has: block1, ",
        ):
            Purified(classifier, denoiser, METHOD, taps=wrong)


class OneByOne(nn.Module):
    """Networks for any number of channels, from pieces that do not mind it."""

    def __init__(self):
        super().__init__()
        self.tap = nn.AvgPool2d(2)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return 0.1 * x if t is not None else self.tap(x).flatten(1)[:, :4]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_have_any_number_of_channels(channels):
    images = torch.rand(3, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    net = OneByOne()
    for purifier in (
        METHOD,
        QUICK,
        HetPure(steps=4, mask_kind="random", reading="multi-step", U=2),
    ):
        assert Purified(net, net, purifier, taps=["tap"])(images, [1, 2, 3]).shape == (3, 4)
        assert purify(images, net, net, purifier, taps=["tap"]).shape == images.shape
    with pytest.raises(
        ValueError, match=f"the released code's maps need images of 3 channels, not {channels}"
    ):
        purify(images, net, net, HetPure(steps=20, reading="released"), taps=["tap"])


# ---- the caller's networks stay as they are ------------------------------------------------------


class Awkward(nn.Module):
    """A classifier that behaves otherwise in training, and keeps modules and weights where PyTorch
    does not look for them.
    """

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.listed, self.named = [self.bn, self.drop], {"first": self.conv}
        self.rnn = nn.GRU(4, 5)  # keeps its weights in a list
        self.scale = nn.Parameter(torch.ones(1))
        self.bare = (self.scale, "text")

    def forward(self, x: Tensor) -> Tensor:
        h = self.named["first"](x)
        for module in self.listed:
            h = module(h)
        return self.rnn(h.flatten(2).permute(2, 0, 1))[0][-1] * self.bare[0]

    def taps(self) -> list[nn.Module]:
        return [self.conv]


def state(*networks: nn.Module) -> list:
    return [
        (
            [m.training for m in n.modules()],
            [p.requires_grad for p in n.parameters()],
            [v.clone() for v in n.state_dict().values()],
        )
        for n in networks
    ]


def same(a: list, b: list) -> bool:
    return all(
        x[:2] == y[:2] and all(map(torch.equal, x[2], y[2])) for x, y in zip(a, b, strict=True)
    )


def test_networks_come_back_as_they_were(images, denoiser):
    """Neither making a defence nor any use of it changes mode, `requires_grad`, statistics or
    gradients of the caller's networks.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Awkward().double()
    classifier.bn.train(), classifier.conv.eval(), classifier.conv.weight.requires_grad_(False)
    before = state(classifier, denoiser)
    defended = Purified(classifier, denoiser, METHOD, votes=2)
    assert not defended.training and same(before, state(classifier, denoiser))
    x = images.clone().requires_grad_()
    defended(x, IDS).sum().backward()
    defended.train(), defended.eval(), defended.train(False)
    purify(images, classifier, denoiser)
    attention_maps(images, classifier, classifier.taps())
    assert same(before, state(classifier, denoiser)) and not defended.training
    assert all(p.grad is None for p in defended.parameters()) and x.grad is not None


def test_networks_are_used_in_eval_mode(images, denoiser):
    """Logits and gradients are those of the same networks that were put into eval mode and frozen
    beforehand.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Awkward().double()
    ready = copy.deepcopy(classifier).eval().requires_grad_(False)
    assert frozen(ready) is ready and frozen(len) is len
    answers = []
    for network in (classifier, ready):
        x = images.clone().requires_grad_()
        logits = Purified(network, denoiser, METHOD)(x, IDS)
        answers += [logits, torch.autograd.grad(logits.square().sum(), x)[0]]
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[1], answers[3])


def test_a_view_follows_the_network(images, classifier, denoiser):
    """No weights are copied: what is trained, loaded or converted later is what is used."""
    defended = Purified(classifier, denoiser, QUICK)
    first = defended(images, IDS)
    with torch.no_grad():
        classifier.head.bias += 1
    assert torch.allclose(defended(images, IDS), first + 3, atol=1e-12)
    assert {v.data_ptr() for v in frozen(classifier).state_dict().values()} == {
        p.data_ptr() for p in classifier.parameters()
    }
    defended.float()
    assert defended(images.float(), IDS).dtype == torch.float32


def test_a_network_that_cannot_be_viewed_says_so(images, classifier, denoiser):
    """Scripted and patched networks are used as they are, once they are frozen."""
    scripted = torch.jit.trace(classifier, images)
    scripted.train()
    with pytest.raises(
        ValueError,
        match=r"a compiled or patched .* must be frozen first: .eval\(\).requires_grad_\(False\)",
    ):
        Purified(scripted, denoiser, QUICK)(images, IDS)
    scripted.eval().requires_grad_(False)
    close = dict(rtol=0, atol=1e-12)
    torch.testing.assert_close(
        Purified(scripted, denoiser, QUICK)(images, IDS),
        Purified(classifier, denoiser, QUICK)(images, IDS),
        **close,
    )


# ---- what networks return ------------------------------------------------------------------------

WRONG_DENOISERS = {
    "one channel": (
        lambda x, t: x[:, :1],
        r"the denoiser returned \(4, 1, 8, 8\) for images \(4, 3, 8, 8\)",
    ),
    "one row": (lambda x, t: x[:1], r"the denoiser returned \(1, 3, 8, 8\)"),
    "a scalar": (lambda x, t: x.mean(), r"the denoiser returned \(\)"),
    "learned variance": (lambda x, t: torch.cat([x, x], 1), "the first half of the channels"),
    "NaN": (lambda x, t: x * torch.nan, "the purified images are not finite"),
    "infinity": (lambda x, t: x / 0, "the purified images are not finite"),
    "a dictionary": (lambda x, t: {"sample": x}, "the denoiser returned dict, not a float tensor"),
    "integers": (lambda x, t: x.long(), "the denoiser returned torch.int64, not a float tensor"),
}


@pytest.mark.parametrize("purifier", [QUICK, METHOD], ids=["uniform", "method"])
@pytest.mark.parametrize(("wrong", "message"), WRONG_DENOISERS.values(), ids=WRONG_DENOISERS)
def test_what_a_denoiser_returns_is_checked(wrong, message, purifier, images, classifier):
    """With and without gradients, by the module and by the function."""
    for use in (
        lambda: Purified(classifier, wrong, purifier)(images.clone().requires_grad_(), IDS),
        lambda: torch.no_grad()(Purified(classifier, wrong, purifier, votes=1))(images, IDS),
        lambda: purify(images, classifier, wrong, purifier),
    ):
        with pytest.raises(ValueError, match=message):
            use()


WRONG_CLASSIFIERS = {
    "NaN": (lambda x: x.flatten(1) * torch.nan, "the classifier's logits are not finite"),
    "one NaN": (
        lambda x: F.pad(x.flatten(1), (0, 1), value=torch.nan),
        "the classifier's logits are not finite",
    ),
    "infinity": (lambda x: x.flatten(1) / 0, "not finite"),
    "labels": (
        lambda x: x.flatten(1).argmax(1),
        "the classifier returned torch.int64, not a float tensor",
    ),
    "one dimension": (
        lambda x: x.flatten(1).amax(1),
        r"the classifier returned \(4,\) for 4 images, not \(n, classes\)",
    ),
    "maps": (lambda x: x, r"the classifier returned \(4, 3, 8, 8\)"),
    "one row": (lambda x: x.flatten(1)[:1], r"the classifier returned \(1, 192\) for 4 images"),
    "an object": (lambda x: object(), "the classifier returned object"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG_CLASSIFIERS.values(), ids=WRONG_CLASSIFIERS)
def test_what_a_classifier_returns_is_checked(wrong, message, images, denoiser):
    with pytest.raises(ValueError, match=message):
        Purified(wrong, denoiser, QUICK)(images, IDS)


class Tap(nn.Module):
    """A classifier whose tap returns what `change` makes of (n, 6, h, w)."""

    def __init__(self, change):
        super().__init__()
        self.tap = nn.Identity() if change is None else Changed(change)

    def forward(self, x: Tensor) -> Tensor:
        self.tap(torch.cat([x, x], 1))
        return x.flatten(1)


class Changed(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x: Tensor):
        return self.change(x)


WRONG_TAPS = {
    "channels last": lambda a: a.permute(0, 2, 3, 1),
    "tokens": lambda a: a.flatten(2).transpose(1, 2),
    "pooled": lambda a: a.mean((2, 3)),
    "a tuple": lambda a: (a, a),
    "another batch": lambda a: a[:1],
    "nothing": lambda a: None,
}


@pytest.mark.parametrize("change", WRONG_TAPS.values(), ids=WRONG_TAPS)
def test_activations_are_maps_of_channels(change, images, denoiser):
    with pytest.raises(
        ValueError, match=r"a tap returned .* not \(n, c, h, w\): reshape tokens, permute channels"
    ):
        Purified(Tap(change), denoiser, METHOD, taps=["tap"])(images, IDS)


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (9, 7)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_activations_of_any_size_are_accepted(size, stride, denoiser):
    """Also of a stride that does not divide the sides, and with as many channels as pixels on a
    side.
    """
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    for channels in (1, 6, size[0] // stride, size[1]):
        change = lambda a, c=channels: F.conv2d(
            a, torch.ones(c, 6, 3, 3).to(a), stride=stride, padding=1
        )
        maps = attention_maps(images, net := Tap(change), [net.tap])
        assert maps.shape == (2, 1, *size)


def test_activations_that_are_not_finite_never_become_a_mask(images, denoiser):
    for bad in (torch.nan, torch.inf):
        net = Tap(lambda a, bad=bad: F.pad(a[..., 1:], (1, 0), value=bad))
        for method in (
            METHOD,
            HetPure(steps=20, reading="released"),
            HetPure(steps=4, mask_kind="top-fraction"),
        ):
            with pytest.raises(ValueError, match="not finite"):
                Purified(net, denoiser, method, taps=["tap"])(images, IDS)


def test_no_vote_is_taken_on_what_is_no_number():
    for bad in (torch.nan, torch.inf):
        for how in ("soft", "hard"):
            logits = torch.zeros(3, 2, 4)
            logits[1, 1, 2] = bad
            with pytest.raises(ValueError, match="logits contain NaN"):
                vote(logits, how)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_schedule_has_no_hole(place):
    abar = torch.tensor([1, 0.9, 0.5, 0.1])
    assert Schedule(abar).abar.dtype == torch.float64 and Schedule(abar.tolist()).T == 3
    abar[place] = torch.nan
    for wrong in (abar, abar[:1], torch.ones(2, 2), torch.tensor([])):
        with pytest.raises(ValueError, match="fall strictly"):
            Schedule(wrong)


# ---- images --------------------------------------------------------------------------------------


def test_rounding_outside_the_interval_is_clamped_with_its_gradient(images, classifier, denoiser):
    """Images that leave [0, 1] by less than 1e-6 give the logits of clamped ones, and every pixel
    has a gradient.
    """
    defended = Purified(classifier, denoiser, METHOD)
    edge = images.clone()
    edge[:, :, 0], edge[:, :, 1] = 0, 1
    x = edge.clone()
    x[:, :, 0], x[:, :, 1] = -9e-7, 1 + 9e-7
    gradients = []
    for z in (edge.requires_grad_(), x.requires_grad_()):
        logits = defended(z, IDS)
        gradients += [logits, torch.autograd.grad(logits.square().sum(), z)[0]]
    assert (
        torch.equal(gradients[0], gradients[2])
        and torch.equal(gradients[1], gradients[3])
        and (gradients[3] != 0).all()
    )
    assert torch.equal(
        purify(x.detach(), classifier, denoiser), purify(edge.detach(), classifier, denoiser)
    )


def test_messages_show_by_how_much_images_leave_the_interval():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], but range from -2e-06 to 1.000003"):
        check_images(torch.tensor([-2e-6, 1.000003]).expand(1, 3, 2, 2))


def test_other_precisions_work_or_say_what_is_wrong(images, classifier, denoiser):
    """Half precision with half networks works; images and weights of different types are named."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        networks = copy.deepcopy(classifier).to(dtype), copy.deepcopy(denoiser).to(dtype)
        assert Purified(*networks, METHOD)(images.to(dtype), IDS).dtype == dtype
        for other in {torch.float16, torch.float32, torch.float64} - {dtype}:
            with pytest.raises(
                ValueError,
                match=f"images are {other} on cpu, but the weights of the .* are {dtype} on cpu",
            ):
                Purified(*networks, METHOD)(images.to(other), IDS)


def test_counts_may_be_numpy_integers():
    method = HetPure(steps=np.int64(10), U=np.int32(3), p=np.uint8(2))
    assert method == HetPure(steps=10, U=3) and repr(method) == repr(HetPure(steps=10, U=3))


# ---- threads, processes, copies ------------------------------------------------------------------


@pytest.fixture
def impatient():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def together(*works) -> list:
    """Run side by side, each in its thread, starting at the same moment; what they return."""
    barrier = threading.Barrier(len(works))

    def started(work):
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [f.result() for f in [pool.submit(started, work) for work in works]]


@pytest.mark.parametrize("ready", [False, True], ids=["as made", "frozen"])
@pytest.mark.parametrize("kind", ["one module", "replicas", "copies"])
def test_threads_see_their_own_masks(kind, ready, images, classifier, denoiser, impatient):
    """Hundreds of rounds on one module, on replicas as DataParallel makes them, and on shallow
    copies.
    """
    if ready:
        classifier.eval().requires_grad_(False), denoiser.eval().requires_grad_(False)
    defended = Purified(classifier, denoiser, HetPure(tau=0.5, steps=2))
    parts = [(images[:1], IDS[:1]), (images[1:], IDS[1:])]
    alone = [(defended.mask(x, defended.noise(len(x), ids)), defended(x, ids)) for x, ids in parts]
    modules = {
        "one module": lambda: [defended] * 2,
        "replicas": lambda: [replica(defended) for _ in range(2)],
        "copies": lambda: [copy.copy(defended) for _ in range(2)],
    }[kind]

    def several(module: Purified, x: Tensor, ids: list, times: int = 25) -> list:
        return [(module.mask(x, module.noise(len(x), ids)), module(x, ids)) for _ in range(times)]

    for _ in range(12):
        found = together(*(lambda m=m, p=p: several(m, *p) for m, p in zip(modules(), parts)))
        for expected, results in zip(alone, found):
            assert all(
                torch.equal(mask, expected[0]) and torch.equal(logits, expected[1])
                for mask, logits in results
            )
    assert not any(m._forward_hooks for m in defended.modules())


def replica(module: nn.Module) -> nn.Module:
    """A replica on the same device, made as `torch.nn.parallel.replicate` makes it: weights are
    attributes, hooks are shared.
    """
    twins = {m: m._replicate_for_data_parallel() for m in module.modules()}
    for original, twin in twins.items():
        for name, child in original._modules.items():
            setattr(twin, name, twins[child])
        for name, weight in original._parameters.items():
            setattr(twin, name, weight * 1)
        for name, buffer in original._buffers.items():
            twin._buffers[name] = buffer
    return twins[module]


def test_gradients_in_two_threads(images, classifier, denoiser, impatient):
    defended = Purified(classifier, denoiser, HetPure(tau=0.5, steps=3))

    def gradient(x: Tensor, ids: list) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(defended(x, ids).square().sum(), x)[0]

    parts = [(images[:2], IDS[:2]), (images[1:], IDS[1:])]
    alone = [gradient(*p) for p in parts]
    for _ in range(30):
        assert all(map(torch.equal, alone, together(*(lambda p=p: gradient(*p) for p in parts))))


def test_a_tap_ignores_other_threads(classifier, images):
    with tapped(classifier.taps()) as outputs:
        thread = threading.Thread(target=classifier, args=(images,))
        thread.start(), thread.join()
    assert outputs == []


def test_dask_workers_with_two_threads(images, classifier, denoiser):
    distributed = pytest.importorskip("distributed")
    defended = Purified(classifier, denoiser, HetPure(tau=0.5, steps=2))
    work = [images[i : i + n] for i in range(3) for n in (1, 2)] * 8
    expected = [defended(x, list(range(len(x)))) for x in work]
    with (
        distributed.LocalCluster(
            1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        futures = client.map(lambda x: defended(x, list(range(len(x)))), work, pure=False)
        assert all(map(torch.equal, client.gather(futures), expected))


# ---- noise without ids is fresh ------------------------------------------------------------------


def starts(defended: Purified, images: Tensor) -> list[Tensor]:
    """The first states of a call without ids: what the denoiser sees first."""
    with torch.no_grad():
        return list(defended.plan(images, defended.noise(len(images)))[0][1](2 * images - 1))


def test_noise_without_ids_is_shared_with_nobody(images, classifier, denoiser):
    """Not with a module built alike, a copy, a pickle, a replica, nor an earlier call of any of
    them.
    """
    defended = Purified(classifier, denoiser, QUICK)
    family = [
        defended,
        Purified(classifier, denoiser, QUICK),
        copy.copy(defended),
        copy.deepcopy(defended),
        pickle.loads(pickle.dumps(defended)),
        replica(defended),
        replica(defended),
    ]
    seen = torch.stack(
        [
            x
            for _ in range(3)
            for member in family
            for x in starts(member, images[:1].repeat(2, 1, 1, 1))
        ]
    )
    assert len(seen.unique(dim=0)) == len(seen) == 3 * len(family) * 2


def test_replicas_of_a_seeded_module_never_draw_the_same(images, classifier, denoiser):
    """Two calls of DataParallel with two replicas each: four different noises, which a module with
    the same seed repeats in a row.
    """
    defended = Purified(classifier, denoiser, QUICK, seed="a seed")
    drawn = [starts(replica(defended), images[:1])[0] for _ in range(4)]
    again = Purified(classifier, denoiser, QUICK, seed="a seed")
    assert torch.equal(
        torch.stack(drawn), torch.stack([starts(again, images[:1])[0] for _ in range(4)])
    )
    assert len(torch.stack(drawn).unique(dim=0)) == 4


@pytest.mark.parametrize(("seed", "alike"), [(None, False), (0, True)])
def test_processes_share_noise_only_under_a_seed(seed, alike):
    """Not even forks, which share all of their parent's state."""
    defended = Purified(lambda x: x.flatten(1), lambda x, t: x, Uniform(steps=1), seed=seed)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    children = [
        context.Process(target=lambda: answers.put(defended(GREY).tolist())) for _ in range(2)
    ]
    for child in children:
        child.start()
    said = [answers.get() for _ in children]
    for child in children:
        child.join()
    assert (said[0] == said[1]) is alike


def test_ids_without_a_seed_have_the_noise_of_seed_0(images, classifier, denoiser):
    """So that records keep their noise to the bit."""
    first, second = (Purified(classifier, denoiser, QUICK, **seed) for seed in ({}, {"seed": 0}))
    assert torch.equal(first(images, IDS), second(images, IDS)) and first.noise(4, IDS) == Noise(
        0, IDS, [0] * 4
    )


def waves(x: Tensor) -> Tensor:
    """Two logits whose gradient depends on every bit of noise."""
    w = torch.randn(192, 64, generator=torch.Generator().manual_seed(0)) / 192**0.5
    u = torch.sin(15 * ((x - 0.5).flatten(1) @ w)).sum(1) + 4
    return torch.stack([u, -u], 1)


def test_an_attack_without_ids_does_not_know_the_noise_it_is_scored_with():
    """A one-step attack on one module leaves on another, built alike, what it leaves under an
    explicit other seed. Under the same seed it
    knows the noise, and leaves far less."""
    n, labels = 600, torch.zeros(600, dtype=torch.long)
    built = lambda **seed: Purified(
        waves, lambda x, t: torch.zeros_like(x), Uniform(0.1, 1), **seed
    )

    def left(attacked: Purified, scored: Purified) -> float:
        x = torch.full((n, 3, 8, 8), 0.5, requires_grad=True)
        gradient = torch.autograd.grad(F.cross_entropy(attacked(x), labels), x)[0]
        with torch.no_grad():
            return (scored(x + 0.01 * gradient.sign()).argmax(1) == labels).double().mean().item()

    fresh, others, known = (
        left(built(), built()),
        left(built(seed=0), built(seed=1)),
        left(built(seed=0), built(seed=0)),
    )
    assert abs(fresh - others) < 4 * (2 * 0.25 / n) ** 0.5 and known < others - 0.4


def test_the_public_names_are_listed():
    assert sorted(hetpure_core.__all__) == sorted(set(hetpure_core.__all__)) and all(
        hasattr(hetpure_core, n) for n in hetpure_core.__all__
    )
    own = {
        n
        for n, v in vars(hetpure_core).items()
        if not n.startswith("_") and getattr(v, "__module__", "") == "hetpure_core"
    }
    assert own <= set(hetpure_core.__all__)


def test_a_seeded_schedule_survives_its_travels():
    schedule = pickle.loads(pickle.dumps(linear_schedule()))
    t = torch.tensor([3, 500])
    for like in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.float64)):
        signal, sigma = schedule.signal_and_noise(t, like)
        assert signal.dtype == like.dtype and signal.shape == (2, 1, 1, 1)
        one = [
            torch.tensor(schedule.signal_and_noise(int(i), like)[0], dtype=like.dtype) for i in t
        ]
        assert torch.equal(signal.flatten(), torch.stack(one))
        assert torch.allclose(signal.square() + sigma.square(), torch.ones_like(signal))


def test_masks_of_threads_are_those_of_the_map(images, classifier):
    """The public pieces, too."""
    maps = together(
        *(lambda: attention_maps(images, classifier, classifier.taps()) for _ in range(4))
    )
    assert all(torch.equal(threshold_mask(m, 0.5), threshold_mask(maps[0], 0.5)) for m in maps)


def test_the_method_is_one_short_file():
    """It is read like a paper's method section: at most 720 lines, none of them wider than 140."""
    lines = Path(hetpure_core.__file__).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 720 and max(map(len, lines)) <= 140
