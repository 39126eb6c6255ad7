"""The protocol of every table, with the source of every value, so that ``budget=paper`` means exactly one thing.

Sources: a section, figure or table of the paper; a file of its released code (commit fbb99ce); or *our choice*, where neither says it.
Where paper and release differ, the paper's value stands and the source names the other one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from hetpure_core import HetPure, Uniform
from hetpure_lab.attacks import PGD

OURS = "our choice"


@dataclass(frozen=True)
class Value:
    """A setting and where it is from."""

    value: object
    source: str


@dataclass(frozen=True)
class Protocol:
    """One table of the paper: the bench that runs it, its robust columns, and its settings with their sources."""

    table: str
    bench: str
    columns: tuple[str, ...]
    values: dict[str, Value] = field(hash=False)

    def __getitem__(self, name: str):
        return self.values[name].value

    @property
    def method(self) -> HetPure:
        """The method's row."""
        return HetPure(**{name: self[name] for name in ("t_l", "t_s", "tau", "U", "steps", "reading", "sampler", "p")})

    @property
    def baseline(self) -> Uniform:
        """The row of uniform purification (DiffPure's level), with as many steps."""
        return Uniform(t=self["t*"], steps=self["steps"], sampler=self["sampler"])

    @property
    def attack(self) -> PGD:
        """The attack of the PGD and BPDA columns."""
        same = {name: self[name] for name in ("norm", "eps", "iterations", "eot", "step", "gradient", "l2_step")}
        return PGD(**same, confirm=0)

    def unknown(self) -> dict[str, object]:
        """The settings that neither paper nor release states: ours."""
        return {name: v.value for name, v in self.values.items() if v.source.startswith(OURS)}

    def describe(self) -> pd.DataFrame:
        """Every setting with its source."""
        return pd.DataFrame({name: {"value": v.value, "source": v.source} for name, v in self.values.items()}).T

    def statement(self) -> str:
        """One sentence that names what is our choice."""
        ours = ", ".join(f"{name} = {value}" for name, value in self.unknown().items())
        return f"{self.table}: neither the paper nor its release states {ours}; these are our choice."


def _values(**settings: tuple[object, str]) -> dict[str, Value]:
    return {name.replace("t_star", "t*"): Value(*pair) for name, pair in settings.items()}


_T1 = _values(
    classifier=("WRN-28-10, RobustBench Standard", "paper §5.1; release load_model.py"),
    denoiser=(
        "EDM, CIFAR-10 unconditional, vp",
        "paper §5.1 (which of vp and ve: our choice); the release uses score_sde: cifar10-paper-released",
    ),
    images=("RandomState(0).choice(10000, 512), split test512", "paper §5.1: a fixed subset of 512; the draw: release load_data.py"),
    n_images=(512, "paper §5.1"),
    runs=(3, "paper §5.1"),
    votes=(20, "release ddp_test.py; the paper does not say"),
    t_l=(0.2, "paper §5.3; release scripts/cifar10.sh"),
    t_s=(0.05, "paper §5.3; the release uses 0.1"),
    tau=(0.8, "paper §5.3; the release uses 0.9"),
    p=(2, "release purification.py; the paper does not say"),
    U=(10, "paper Fig 3 (§4 and §7 say 20); the release uses 3"),
    steps=(10, "paper §7, said of the timing; the release defends with 500 strided over T and attacks with 10"),
    reading=("paper", f"{OURS}: Algorithm 1 with the errata"),
    sampler=("ddim", "release purification.py; the paper prints DDPM steps (Eq 7, 9)"),
    t_star=(0.1, "DiffPure, CIFAR-10 l-infinity"),
    norm=("Linf", "paper Table 1"),
    eps=(8 / 255, "paper Table 1"),
    iterations=(200, "paper §5.1"),
    eot=(20, "paper §5.1"),
    step=(0.007, "paper §5.1"),
    l2_step=("normalised", f"{OURS}; not used for l-infinity"),
    gradient=("exact", f"{OURS}: the paper says a surrogate process, the release differentiates 2 calls"),
)
_70 = _values(
    classifier=(
        "WRN-70-16, DeepMind form (cifar10-paper-wrn70-dropout: DiffPure's)",
        "implied by the release's hooks; the paper does not say",
    ),
    t_l=(0.2, f"{OURS}: as Table 1"),
    t_s=(0.05, f"{OURS}: as Table 1"),
    tau=(0.8, f"{OURS}: as Table 1"),
    U=(10, f"{OURS}: as Table 1"),
    steps=(10, f"{OURS}: as Table 1"),
    votes=(20, f"{OURS}: as Table 1"),
)
_L2 = _values(
    norm=("L2", "paper Table 3"),
    eps=(0.5, "paper Table 3; the release attacks AutoAttack's column at 8/255"),
    l2_step=("sign", "release attacks/pgd_eot_l2.py"),
    t_star=(0.075, "DiffPure, CIFAR-10 l2"),
)
_TABLES = (
    Protocol("Table 1", "cifar10-paper", ("PGD+EOT", "AutoAttack"), _T1),
    Protocol("Table 2", "cifar10-paper-wrn70", ("PGD+EOT", "AutoAttack"), _T1 | _70),
    Protocol("Table 3", "cifar10-paper", ("PGD+EOT", "AutoAttack"), _T1 | _L2),
    Protocol("Table 4", "cifar10-paper-wrn70", ("PGD+EOT", "AutoAttack"), _T1 | _70 | _L2),
    Protocol(
        "Table 5",
        "cifar10-paper",
        ("BPDA+EOT",),
        _T1 | _values(iterations=(100, "paper §5.1; the release's default is 200"), gradient=("bpda", "paper Table 5")),
    ),
    Protocol(
        "Table 6",
        "imagenet-paper",
        ("PGD+EOT",),
        _T1
        | _values(
            classifier=("ResNet-50, torchvision V1", "paper §5.1 'provided by PyTorch'; peers use V1, the release V2: imagenet-paper-v2"),
            denoiser=("guided-diffusion 256x256 unconditional", "paper §5.1"),
            images=(
                "RandomState(0).choice(50000, 512), Resize 256 and CenterCrop 224",
                "Lee & Kim load_data.py; the release squashes to 224",
            ),
            t_l=(0.4, "paper §5.3; release scripts/imagenet.sh"),
            t_s=(0.2, "paper §5.3; release scripts/imagenet.sh"),
            tau=(0.8, f"{OURS}: as Table 1; the release takes the top 15 % of pixels"),
            U=(10, f"{OURS}: as Table 1; the release uses 3"),
            iterations=(20, "release scripts/imagenet.sh"),
            t_star=(0.15, "DiffPure, ImageNet"),
            eps=(8 / 255, "paper Table 6 and release; the quoted baselines use 4/255"),
        ),
    ),
    Protocol(
        "Table 7",
        "cifar10-paper",
        ("PGD+EOT",),
        _T1 | _values(runs=(3, f"{OURS}: as Table 1"), t_s=(0.05, f"{OURS}: as Table 1"), tau=(0.8, f"{OURS}: as Table 1")),
    ),
    Protocol(
        "Table 8",
        "svhn-paper",
        ("PGD+EOT",),
        _T1
        | _70
        | _values(
            classifier=("WRN-28-10 of Lee & Kim", f"{OURS}: the paper's own classifier is not published"),
            denoiser=("DDPM U-Net in Lee & Kim's configuration", "release; the weights are not published"),
            t_l=(0.4, f"{OURS}: as on ImageNet; chapter 6 derives it from Table 8"),
            t_s=(0.2, f"{OURS}: as on ImageNet; chapter 6 derives it from Table 8"),
            images=("RandomState(0).choice(26032, 512), split test512", "Lee & Kim load_data.py"),
            eps=(8 / 255, "release ddp_test.py"),
        ),
    ),
)
PROTOCOLS = {p.table: p for p in _TABLES}


def main_table(bench: str) -> Protocol:
    """The first table that `bench`, or the bench it is a variant of, runs; a small bench borrows its data set's, anything else Table 1."""
    family = bench.partition("+")[0].replace("-small", "-paper")
    fitting = [p for p in _TABLES if f"{family}-".startswith(f"{p.bench}-")]
    return max(fitting, key=lambda p: len(p.bench), default=PROTOCOLS["Table 1"])


def table(number: int | str) -> Protocol:
    """The protocol of that table."""
    if (name := f"Table {number}") not in PROTOCOLS:
        raise ValueError(f"no protocol for {name}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
