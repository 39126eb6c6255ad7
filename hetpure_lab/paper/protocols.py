"""The protocol of every table, with the source of every value, so that ``budget=paper`` means
exactly one thing.

Sources: a section, figure or table of the paper; a file of its released code (commit fbb99ce); or
*our choice*, where neither says it. Where paper and release differ, the paper's value stands and
the source names the other one.

    hetpure protocols --table 1                            # its queue on the table's bench, in
    lines like results/queue.txt's hetpure protocols --table 1 --bench cifar10-paper+bf16
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from hetpure_core import HetPure, Uniform
from hetpure_lab import defences
from hetpure_lab.attacks import ATTACKS, BPDA, PGD, Attack
from hetpure_lab.attacks.autoattack import AutoAttack
from hetpure_lab.common import specs
from hetpure_lab.data import DATASETS
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import Experiment
from hetpure_lab.networks import benches, robustbench
from hetpure_lab.paper import printed
from hetpure_lab.paper.budgets import BUDGETS, Budget

OURS = "our choice"
# A setting in a reader's words, where the sentence of our choices needs some.
SAID = {
    "reading": "how Algorithm 1 is read",
    "l2_step": "how a step in ℓ2 is scaled",
    "gradient": "which gradient the attack takes",
    "t_l": "the strong level",
    "t_s": "the weak level",
    "tau": "the threshold of the mask",
    "U": "the number of repetitions, U",
    "steps": "the number of reverse steps",
    "votes": "how many answers vote",
    "classifier": "which classifier is attacked",
    "runs": "the number of runs",
}
CHOSEN = {
    "reading": {"paper": "as printed, its errata corrected"},
    "gradient": {"exact": "the exact one, through every step"},
}


@dataclass(frozen=True)
class Value:
    """A setting and where it is from."""

    value: Any
    source: str


@dataclass(frozen=True)
class Protocol:
    """One table of the paper: the bench that runs it, its robust columns, and its settings with
    their sources.
    """

    table: str
    bench: str
    columns: tuple[str, ...]
    values: dict[str, Value] = field(hash=False)

    def __getitem__(self, name: str) -> Any:
        return self.values[name].value

    @property
    def method(self) -> HetPure:
        """The method's row."""
        return HetPure(
            **{
                name: self[name]
                for name in ("t_l", "t_s", "tau", "U", "steps", "reading", "sampler", "p")
            }
        )

    @property
    def baseline(self) -> Uniform:
        """The row of uniform purification (DiffPure's level), with as many steps."""
        return Uniform(t=self["t*"], steps=self["steps"], sampler=self["sampler"])

    def attack(self, column: str) -> Attack:
        """The attack of one of the robust columns, on a randomised defence."""
        same = {name: self[name] for name in ("norm", "eps", "eot", "gradient")}
        if column == "AutoAttack":
            return AutoAttack(
                **same, iterations=self["autoattack_iterations"], version=self["autoattack_version"]
            )
        kind = BPDA if column == "BPDA+EOT" else PGD
        return kind(
            **same,
            iterations=self["iterations"],
            step=self["step"],
            l2_step=self["l2_step"],
            confirm=0,
        )

    def unknown(self) -> dict[str, object]:
        """The settings that neither paper nor release states: ours."""
        return {name: v.value for name, v in self.values.items() if v.source.startswith(OURS)}

    def describe(self) -> pd.DataFrame:
        """Every setting with its source."""
        return pd.DataFrame(
            {name: {"value": v.value, "source": v.source} for name, v in self.values.items()}
        ).T

    def statement(self) -> str:
        """Our choices in words, and nothing of a norm that the table does not have."""
        ours = self.unknown()
        if self["norm"] == "Linf":
            ours.pop("l2_step", None)
        said = "; ".join(
            f"{SAID[name]} ({CHOSEN.get(name, {}).get(str(value), value)})"
            for name, value in ours.items()
        )
        return (
            f"{self.table}: some settings stand neither in the paper nor in its release, and these"
            f" are our choice: {said}."
        )


def _values(**settings: tuple[object, str]) -> dict[str, Value]:
    return {name.replace("t_star", "t*"): Value(*pair) for name, pair in settings.items()}


_T1 = _values(
    classifier=("WRN-28-10, RobustBench Standard", "paper §5.1; release load_model.py"),
    denoiser=(
        "EDM, CIFAR-10 unconditional, vp",
        (
            "paper §5.1 (which of vp and ve: our choice); the release uses score_sde:"
            " cifar10-paper-released"
        ),
    ),
    images=(
        "RandomState(0).choice(10000, 512), split test512",
        "paper §5.1: a fixed subset of 512; the draw: release load_data.py",
    ),
    n_images=(512, "paper §5.1"),
    runs=(3, "paper §5.1"),
    votes=(20, "release ddp_test.py; the paper does not say"),
    t_l=(0.2, "paper §5.3; release scripts/cifar10.sh"),
    t_s=(0.05, "paper §5.3; the release uses 0.1"),
    tau=(0.8, "paper §5.3; the release uses 0.9"),
    p=(2, "release purification.py; the paper does not say"),
    U=(10, "paper Fig 3 (§4 and §7 say 20); the release uses 3"),
    steps=(
        10,
        (
            "paper §7, said of the timing; the release defends with 500 strided over T and attacks"
            " with 10"
        ),
    ),
    reading=("paper", f"{OURS}: Algorithm 1 with the errata"),
    sampler=("ddim", "release purification.py; the paper prints DDPM steps (Eq 7, 9)"),
    t_star=(0.1, "DiffPure, CIFAR-10 l-infinity"),
    norm=("Linf", "paper Table 1"),
    eps=(8 / 255, "paper Table 1"),
    iterations=(200, "paper §5.1"),
    eot=(20, "paper §5.1"),
    step=(0.007, "paper §5.1"),
    autoattack_iterations=(100, "paper §5.1, and the library's"),
    autoattack_version=(
        "rand",
        "paper §5.1: the random version, APGD-CE and APGD-DLR, for randomised defences",
    ),
    static_version=(
        "standard",
        "paper §5.1: for static defences; these need one run, and one gradient per iteration",
    ),
    l2_step=("normalised", f"{OURS}; not used for l-infinity"),
    gradient=(
        "exact",
        f"{OURS}: the paper says a surrogate process, the release differentiates 2 calls",
    ),
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
        _T1
        | _values(
            iterations=(100, "paper §5.1; the release's default is 200"),
            gradient=("bpda", "paper Table 5"),
        ),
    ),
    Protocol(
        "Table 6",
        "imagenet-paper",
        ("PGD+EOT",),
        _T1
        | _values(
            classifier=(
                "ResNet-50, torchvision V1",
                "paper §5.1 'provided by PyTorch'; peers use V1, the release V2: imagenet-paper-v2",
            ),
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
        _T1
        | _values(
            runs=(3, f"{OURS}: as Table 1"),
            t_s=(0.05, f"{OURS}: as Table 1"),
            tau=(0.8, f"{OURS}: as Table 1"),
        ),
    ),
    Protocol(
        "Table 8",
        "svhn-paper",
        ("PGD+EOT",),
        _T1
        | _70
        | _values(
            classifier=(
                "WRN-28-10 of Lee & Kim",
                f"{OURS}: the paper's own classifier is not published",
            ),
            denoiser=(
                "DDPM U-Net in Lee & Kim's configuration",
                "release; the weights are not published",
            ),
            t_l=(0.4, f"{OURS}: as on ImageNet; chapter 6 derives it from Table 8"),
            t_s=(0.2, f"{OURS}: as on ImageNet; chapter 6 derives it from Table 8"),
            images=("RandomState(0).choice(26032, 512), split test512", "Lee & Kim load_data.py"),
            eps=(8 / 255, "release ddp_test.py"),
        ),
    ),
)
PROTOCOLS = {p.table: p for p in _TABLES}


def main_table(bench: str) -> Protocol:
    """The first table that `bench`, or the bench it is a variant of, runs; a small bench borrows
    its data set's, anything else Table 1.
    """
    family = bench.partition("+")[0]
    if benches.scale(bench) != "paper":
        family = f"{DATASETS[benches.dataset(bench)].folder}-paper"
    fitting = [p for p in _TABLES if f"{family}-".startswith(f"{p.bench}-")]
    return max(fitting, key=lambda p: len(p.bench), default=PROTOCOLS["Table 1"])


def attack_of(column: str, bench: str) -> str:
    """The attack that fills a column with its records: the paper's own at its scale; on other
    benches AutoAttack is corrected for randomness.
    """
    corrected = column == "AutoAttack" and benches.scale(bench) != "paper"
    return "autoattack-corrected" if corrected else printed.ATTACK_NAMES[column]


@dataclass(frozen=True)
class Run:
    """A budget on a bench: the `attacks` by column, how many images of which `split`, `K`
    purifications that score each, and `repeats`.
    """

    protocol: Protocol
    bench: str
    attacks: dict[str, Attack]
    n_images: int
    K: int
    split: str = "test"
    repeats: int = 1

    @property
    def attack(self) -> Attack:
        """The attack of the first column."""
        return self.attacks[self.protocol.columns[0]]


def under(budget: Budget, bench: str, number: int | str | None = None) -> Run:
    """What `budget` runs on `bench`, for table `number` or the bench's main table.

    ``paper`` is the table's protocol: no image is set aside early, and on the benches at the
    paper's scale the images are the literature's 512. The smaller budgets take the table's threat
    and step, their own numbers of images, iterations and purifications, and confirm failures early.
    """
    protocol = main_table(bench) if number is None else table(number)
    attacks = {column: protocol.attack(column) for column in protocol.columns}
    if budget.name != "paper":
        return Run(
            protocol,
            bench,
            {column: shortened(a, budget) for column, a in attacks.items()},
            budget.n_images,
            budget.K,
        )
    split = "test512" if benches.scale(bench) == "paper" else "test"
    return Run(
        protocol, bench, attacks, protocol["n_images"], protocol["votes"], split, protocol["runs"]
    )


def shortened(attack: Attack, budget: Budget) -> Attack:
    """The attack with the iterations and copies of a smaller budget, which confirms failures early
    where the attack can.
    """
    early = {"confirm": PGD.confirm} if attack.ascends else {}
    return replace(attack, iterations=budget.iterations, eot=budget.eot, **early)


def table(number: int | str) -> Protocol:
    """The protocol of that table."""
    if (name := f"Table {number}") not in PROTOCOLS:
        raise ValueError(f"no protocol for {name}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


# ---- the queue of a table ------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """An experiment on `n_images` that measures a `row` of a table in a `column` once; as text,
    options of ``evidence run``.
    """

    row: str
    column: str
    experiment: Experiment
    n_images: int

    def __str__(self) -> str:
        e = self.experiment
        options = {
            "bench": e.bench,
            "defence": e.defence,
            "attack": e.attack,
            "split": e.split,
            "n-images": self.n_images,
        }
        options |= {"K": e.K, "seed": e.seed}
        return shlex.join(
            word for name, value in options.items() for word in (f"--{name}", str(value))
        )


def queue(run: Run) -> list[Line]:
    """The experiments of a table: every row in every column, seed after seed, so that the table is
    whole as early as can be.

    A static defence runs once, with one gradient per iteration and one answer, and meets
    AutoAttack's standard version.
    """
    lines = []
    for seed in range(run.repeats):
        for row, defence in rows(run.protocol, run.bench).items():
            for column, attack in run.attacks.items() if seed == 0 or not static(defence) else ():
                attack, K = (
                    (against_static(attack, run.protocol), 1)
                    if static(defence)
                    else (attack, run.K)
                )
                experiment = Experiment(
                    defence, specs.describe(attack, ATTACKS), run.bench, run.split, K, seed
                )
                lines.append(Line(row, column, experiment, run.n_images))
    return lines


def rows(protocol: Protocol, bench: str) -> dict[str, str]:
    """A table's rows and the defences that measure them on `bench`: the bare classifier, uniform
    purification and the bench's method, and at the paper's scale all other rows of the table whose
    networks are published.
    """
    found = {
        "no defence": None,
        "uniform purification": protocol.baseline,
        "the method": benches.method(bench),
    }
    found = {row: specs.describe(purifier, DEFENCES) for row, purifier in found.items()}
    for claim in printed.TABLES[protocol.table].rows if benches.scale(bench) == "paper" else ():
        spec = next(
            (specs.normal(spec, DEFENCES) for spec in claim.specs if is_published(spec, bench)),
            None,
        )
        if spec and spec not in found.values():
            found.setdefault(claim.method, spec)
    return found


def is_published(defence: str, bench: str) -> bool:
    """Whether somebody has published all networks that the defence needs on `bench`."""
    try:
        names = defences.networks(defence, bench)
    except robustbench.CheckpointError:  # RobustBench has none for these images
        return False
    return all(name.startswith(robustbench.PREFIX) or benches.checkpoint_of(name) for name in names)


def static(defence: str) -> bool:
    """Whether the defence answers without noise: a classifier, bare or trained adversarially."""
    return not defences.capabilities(specs.parse(defence, DEFENCES)[1]).purifies


def against_static(attack: Attack, protocol: Protocol) -> Attack:
    """The attack on a defence without noise; AutoAttack's standard version has a budget of its own,
    which smaller ones cannot cut.
    """
    whole = attack.is_library and attack == protocol.attack("AutoAttack")
    return replace(attack, eot=1, **({"version": protocol["static_version"]} if whole else {}))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure protocols", description="Print the queue of a table of the paper."
    )
    parser.add_argument("--table", type=int, required=True, help="its number")
    parser.add_argument("--bench", help="where to run it (default: the table's)")
    args = parser.parse_args(argv)
    lines = queue(under(BUDGETS["paper"], args.bench or table(args.table).bench, args.table))
    print(*lines, sep="\n")
