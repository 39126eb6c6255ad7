"""The paper's tables as data: every printed number, with the conditions it was printed under. Needs
no torch.

Accuracies are percentages; `sd` values are the paper's run-to-run standard deviations on one fixed
subset, not intervals. Errata of `book/errata` are noted where they touch a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Claim:
    """One row of a table. `ours` is the defence spec that measures this row on the table's bench,
    "" if nothing does, and then `note` says why; `published` is the spec with the paper's own
    network, where the table's bench has none so large; `eps` the radius of the attack behind the
    numbers, if it is known to differ from the caption's.
    """

    kind: str
    method: str
    standard: str
    robust: tuple[str, ...]
    ours: str = ""
    note: str = ""
    eps: float | None = None
    published: str = ""

    @property
    def specs(self) -> tuple[str, ...]:
        """The defences that can measure this row, the closest to the paper first."""
        return tuple(filter(None, (self.published, self.ours)))

    def at(self, eps: float) -> Claim:
        """The row in a table of radius `eps`: without its robust accuracies if they are of
        another.
        """
        same = self.eps is None or math.isclose(self.eps, eps)
        return self if same else replace(self, robust=("other radius",) * len(self.robust))


@dataclass(frozen=True)
class Table:
    """A table of the paper: its caption in our words, the attacks of its robust columns, its rows;
    `eps` if not the norm's usual radius; the `bench` that stands in for its networks, and its norm.
    """

    name: str
    caption: str
    attacks: tuple[str, ...]
    rows: tuple[Claim, ...]
    eps: float | None = None
    bench: str = "cifar10-small"
    norm: str = "Linf"
    small: str = ""

    @property
    def radius(self) -> float:
        """The radius of the attacks by its caption."""
        return self.eps or HEADLINE[self.norm]


HEADLINE = {"Linf": 8 / 255, "L2": 0.5}

ATTACK_NAMES = {"PGD+EOT": "pgd", "BPDA+EOT": "bpda", "AutoAttack": "autoattack"}


METHOD = "hetpure"
# DiffPure is the reverse SDE; its cousin by DDIM is random at the start only and costs half as
# much. On photographs the cousin stands for it: Euler's steps of an SDE must be small.
DIFFPURE, DIFFPURE_L2, COUSIN = "sde:t=0.1", "sde:t=0.075", "by DDIM: uniform:t=0.1"
CONTRASTIVE_L2 = "contrastive:t=0.075"  # on the reverse SDE, at DiffPure's level
STRONGER = "hetpure:t_l=0.4,t_s=0.2,steps=6"
GRADUAL = {
    "svhn": "gradual:levels=30+30+30+30+50+50+80+80,steps=2+2+2+2+4+4+6+6",
    "imagenet": "gradual:levels=30+30+30+30+50+50+200+200,steps=1+1+1+1+2+2+6+6",
}
QUOTED = "D6: attacked at 4/255"
BY_DDIM = "here by DDIM, not the reverse SDE"
AA_L2 = "D1: the release's AutoAttack, and it alone, is at 8/255, not 0.5"
AT = "at:model="  # a network of the bench, or, as THREAT/NAME, RobustBench's: see `zoo`
STAND_IN = "here: PGD training of the small network"
DOWNLOAD = "published weights: needs RobustBench's download on the paper bench"
NO_SVHN = "E25: AutoAttack; RobustBench has no networks for SVHN; here: at"
NO_IMAGENET = f"{QUOTED}; {DOWNLOAD}"

TABLES = {
    t.name: t
    for t in (
        Table(
            "Table 1",
            "CIFAR-10, WideResNet-28-10, l-infinity 8/255",
            ("PGD+EOT", "AutoAttack"),
            (
                Claim(
                    "AT",
                    "Gowal et al. 2021",
                    "88.54",
                    ("65.93", "63.38"),
                    note=f"E28: the clean values of the AT rows look swapped; {DOWNLOAD}; here: at",
                    published=f"{AT}Linf/Gowal2021Improving_28_10_ddpm_100m",
                ),
                Claim(
                    "AT",
                    "Gowal et al. 2020",
                    "87.51",
                    ("66.01", "62.76"),
                    "at",
                    f"E28; {STAND_IN}",
                    published=f"{AT}Linf/Gowal2020Uncovering_28_10_extra",
                ),
                Claim(
                    "AT",
                    "Pang et al.",
                    "88.62",
                    ("64.95", "61.04"),
                    note=f"{DOWNLOAD}; here: at",
                    published=f"{AT}Linf/Pang2022Robustness_WRN28_10",
                ),
                Claim(
                    "AP",
                    "Yoon et al.",
                    "85.66±0.51",
                    ("33.48±0.86", "59.53±0.87"),
                    ours="adp:t=0.14",
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure)",
                    "90.07±0.97",
                    ("56.84±0.59", "63.6±0.81"),
                    DIFFPURE,
                    f"a misprint of 46.84±1.44? {COUSIN}",
                ),
                Claim(
                    "AP", "Lee & Kim", "90.16±0.64", ("55.82±0.59", "70.47±1.53"), ours="gradual"
                ),
                Claim(
                    "AP",
                    "Bai et al.",
                    "91.41",
                    ("49.22 (half the iterations)", "77.08"),
                    ours="contrastive:t=0.1",
                ),
                Claim(
                    "AP",
                    "Zollicoffer et al.",
                    "84.20",
                    ("-", "59.14"),
                    ours="lorid:t=0.05",
                    note="E32: printed as Geigh et al.",
                ),
                Claim("AP", "Lin et al.", "90.62", ("-", "72.85"), "atop:t=0.15"),
                Claim(
                    "AP",
                    "the method",
                    "93.16±0.21",
                    ("59.38±1.25", "80.45±1.54"),
                    METHOD,
                    "E34: AutoAttack above PGD",
                ),
            ),
        ),
        Table(
            "Table 2",
            "CIFAR-10, WideResNet-70-16, l-infinity 8/255",
            ("PGD+EOT", "AutoAttack"),
            (
                Claim(
                    "AT",
                    "Rebuffi et al.",
                    "92.22",
                    ("69.97", "66.56"),
                    f"{AT}Linf/Rebuffi2021Fixing_70_16_cutmix_extra",
                ),
                Claim(
                    "AT",
                    "Gowal et al. 2020",
                    "91.10",
                    ("68.66", "66.10"),
                    f"{AT}Linf/Gowal2020Uncovering_70_16_extra",
                    "E28: AutoAttack values swapped",
                ),
                Claim(
                    "AT",
                    "Gowal et al. 2021",
                    "88.75",
                    ("69.03", "65.87"),
                    f"{AT}Linf/Gowal2021Improving_70_16_ddpm_100m",
                    "E28",
                ),
                Claim(
                    "AP", "Yoon et al.", "86.76±1.15", ("37.11±1.35", "60.86±0.56"), "adp:t=0.14"
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure)",
                    "90.43±0.60",
                    ("51.13±0.87", "66.06±1.17"),
                    DIFFPURE,
                ),
                Claim(
                    "AP", "Lee & Kim", "90.53±0.1", ("56.88±1.06", "70.31±0.62"), "gradual", "E31"
                ),
                Claim(
                    "AP",
                    "Bai et al.",
                    "92.97",
                    ("48.83 (half the iterations)", "79.10"),
                    "contrastive:t=0.1",
                ),
                Claim(
                    "AP",
                    "Zollicoffer et al. (a)",
                    "84.60",
                    ("-", "66.40"),
                    "lorid:t=0.05",
                    "E31: two rows under one name",
                ),
                Claim(
                    "AP",
                    "Zollicoffer et al. (b)",
                    "86.90",
                    ("-", "59.20"),
                    note="E31: which settings is not said",
                ),
                Claim(
                    "AP",
                    "Lin et al.",
                    "91.99",
                    ("-", "76.37"),
                    note="no purifier of theirs is published for this network",
                ),
                Claim(
                    "AP", "the method", "93.36±0.59", ("59.79±0.61", "84.83±0.59"), METHOD, "E34"
                ),
            ),
            bench="cifar10-paper-wrn70",
            small="cifar10-small-swish",
        ),
        Table(
            "Table 3",
            "CIFAR-10, WideResNet-28-10, l2 0.5",
            ("PGD+EOT", "AutoAttack"),
            (
                Claim(
                    "AT",
                    "Rebuffi et al.",
                    "91.79",
                    ("85.05", "78.80"),
                    f"{AT}pgd-at-l2",
                    f"E29; {STAND_IN}",
                    published=f"{AT}L2/Rebuffi2021Fixing_28_10_cutmix_ddpm",
                ),
                Claim(
                    "AT",
                    "Augustin et al.",
                    "93.96",
                    ("86.14", "78.79"),
                    note=f"WideResNet-34-10, extra data; {DOWNLOAD}; here: {AT}pgd-at-l2",
                    published=f"{AT}L2/Augustin2020Adversarial_34_10_extra",
                ),
                Claim(
                    "AT",
                    "Sehwag et al.",
                    "90.93",
                    ("83.75", "77.24"),
                    note=f"E32; WideResNet-34-10; {DOWNLOAD}; here: {AT}pgd-at-l2",
                    published=f"{AT}L2/Sehwag2021Proxy",
                ),
                Claim(
                    "AP",
                    "Yoon et al.",
                    "85.66±0.51",
                    ("73.32±0.76", "79.57±0.38"),
                    ours="adp:t=0.14",
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure)",
                    "91.41±1.00",
                    ("79.45±1.16", "81.7±0.84"),
                    DIFFPURE_L2,
                    COUSIN,
                ),
                Claim(
                    "AP", "Lee & Kim", "90.16±0.64", ("83.59±0.88", "86.48±0.38"), ours="gradual"
                ),
                Claim(
                    "AP",
                    "Bai et al.",
                    "93.75",
                    ("86.13 (half the iterations)", "80.92"),
                    ours=CONTRASTIVE_L2,
                ),
                Claim("AP", "Zollicoffer et al. (a)", "84.40", ("-", "77.90"), ours="lorid:t=0.05"),
                Claim(
                    "AP",
                    "Zollicoffer et al. (b)",
                    "84.20",
                    ("-", "73.60"),
                    note="which settings is not said",
                ),
                Claim("AP", "Lin et al.", "90.62", ("-", "80.47"), "atop:t=0.15"),
                Claim(
                    "AP", "the method", "93.16±0.21", ("87.11±0.95", "90.25±0.80"), METHOD, AA_L2
                ),
            ),
            norm="L2",
        ),
        Table(
            "Table 4",
            "CIFAR-10, WideResNet-70-16, l2 0.5",
            ("PGD+EOT", "AutoAttack"),
            (
                Claim(
                    "AT",
                    "Rebuffi et al. (extra data)",
                    "95.74",
                    ("89.62", "82.32"),
                    f"{AT}L2/Rebuffi2021Fixing_70_16_cutmix_extra",
                ),
                Claim(
                    "AT",
                    "Gowal et al. 2020",
                    "94.74",
                    ("88.18", "80.53"),
                    f"{AT}L2/Gowal2020Uncovering_extra",
                ),
                Claim(
                    "AT",
                    "Rebuffi et al.",
                    "92.41",
                    ("86.24", "80.42"),
                    f"{AT}L2/Rebuffi2021Fixing_70_16_cutmix_ddpm",
                ),
                Claim(
                    "AP",
                    "Yoon et al.",
                    "86.76±1.15",
                    ("75.67±1.29", "80.43±0.42"),
                    "adp:t=0.14",
                    "E31: printed 75.666",
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure)",
                    "92.15±0.72",
                    ("82.97±1.38", "83.06±1.27"),
                    DIFFPURE_L2,
                ),
                Claim(
                    "AP", "Lee & Kim", "90.53±0.14", ("83.75±0.99", "85.59±0.61"), "gradual", "E31"
                ),
                Claim(
                    "AP",
                    "Bai et al.",
                    "92.97",
                    ("84.37 (half the iterations)", "83.01"),
                    CONTRASTIVE_L2,
                ),
                Claim(
                    "AP",
                    "Lin et al.",
                    "91.99",
                    ("-", "81.35"),
                    note="no purifier of theirs is published for this network",
                ),
                Claim("AP", "the method", "93.36±0.59", ("87.7±0.97", "91.71±1.09"), METHOD, AA_L2),
            ),
            bench="cifar10-paper-wrn70",
            small="cifar10-small-swish",
            norm="L2",
        ),
        Table(
            "Table 5",
            "CIFAR-10, WideResNet-28-10, BPDA+EOT, l-infinity 8/255",
            ("BPDA+EOT",),
            (
                Claim("AP", "Song et al. (PixelDefend)", "95.00", ("9.00",), "pixeldefend"),
                Claim("AP", "Yang et al. (ME-Net)", "94.00", ("15.00",), "me-net"),
                Claim("AP", "Hill et al.", "84.12", ("54.90",), ours="langevin:t=0.03"),
                Claim("AP", "Yoon et al.", "85.66±0.51", ("66.91±1.75",), ours="adp:t=0.14"),
                Claim(
                    "AP", "Nie et al. (DiffPure)", "90.07±0.97", ("81.45±1.51",), DIFFPURE, COUSIN
                ),
                Claim("AP", "Bai et al.", "91.37±1.21", ("85.51±0.81",), ours="contrastive:t=0.1"),
                Claim(
                    "AP", "Wang et al. (GDMP)", "89.96±0.40", ("75.59±1.26",), ours="gdmp:t=0.036"
                ),
                Claim(
                    "AP",
                    "Song et al. (MimicDiffusion)",
                    "89.88±0.35",
                    ("88.43±0.83",),
                    ours="mimic:t=0.4",
                ),
                Claim("AP", "Lee & Kim", "90.16±0.64", ("88.40±0.88",), ours="gradual"),
                Claim("AP", "the method", "93.04±0.65", ("86.72±0.20",), METHOD),
            ),
        ),
        Table(
            "Table 6",
            "ImageNet, ResNet-50, l-infinity 8/255 by its caption; the quoted rows were attacked at"
            " 4/255 (D6)",
            ("PGD+EOT",),
            (
                Claim(
                    "AT",
                    "Salman et al.",
                    "63.86",
                    ("39.11",),
                    "",
                    NO_IMAGENET,
                    4 / 255,
                    f"{AT}Linf/Salman2020Do_R50",
                ),
                Claim(
                    "AT",
                    "Engstrom et al.",
                    "62.42",
                    ("33.20",),
                    "",
                    NO_IMAGENET,
                    4 / 255,
                    f"{AT}Linf/Engstrom2019Robustness",
                ),
                Claim(
                    "AT",
                    "Wong et al.",
                    "53.83",
                    ("28.04",),
                    f"{AT}fast-at-linf",
                    f"{QUOTED}; RobustBench shows its network 288 pixels, the paper bench 224; here"
                    " a small one, of ten classes only",
                    4 / 255,
                    f"{AT}Linf/Wong2020Fast",
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure, t* = 0.2)",
                    "73.96",
                    ("40.63",),
                    "uniform:t=0.2,steps=6",
                    f"{QUOTED}; {BY_DDIM}",
                    4 / 255,
                    "uniform:t=0.2",
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure, t* = 0.3)",
                    "72.85",
                    ("48.24",),
                    "uniform:t=0.3,steps=6",
                    f"{QUOTED}; {BY_DDIM}",
                    4 / 255,
                    "uniform:t=0.3",
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure, t* = 0.4)",
                    "61.71",
                    ("41.67",),
                    "uniform:t=0.4,steps=6",
                    f"{QUOTED}; {BY_DDIM}",
                    4 / 255,
                    "uniform:t=0.4",
                ),
                Claim(
                    "AP",
                    "Bai et al.",
                    "70.41",
                    ("41.7",),
                    "contrastive:t=0.1,steps=3",
                    QUOTED,
                    4 / 255,
                    "contrastive:t=0.1",
                ),
                Claim("AP", "Lee & Kim", "71.42", ("46.59",), GRADUAL["imagenet"], QUOTED, 4 / 255),
                Claim(
                    "AP",
                    "Song et al. (MimicDiffusion)",
                    "62.25",
                    ("51.14",),
                    "mimic:t=0.4,steps=10",
                    "radius of the source unknown",
                ),
                Claim(
                    "AP",
                    "Zollicoffer et al.",
                    "73.98",
                    ("56.54",),
                    "lorid:t=0.05,steps=2",
                    "E32: Geigh et al.; radius unknown",
                ),
                Claim(
                    "AP",
                    "the method",
                    "74.51±1.07",
                    ("60.06±1.66",),
                    STRONGER,
                    "E22; C3: another classifier",
                    published="hetpure:t_l=0.4,t_s=0.2",
                ),
            ),
            eps=8 / 255,
            # on a thousand classes the small denoiser leaves nothing to attack
            bench="imagenet-small-10",
        ),
        Table(
            "Table 7",
            "CIFAR-10, WideResNet-28-10: which blocks feed the mask",
            ("PGD+EOT",),
            (
                Claim("AP", "without block 1", "92.77", ("58.00",), "hetpure:blocks=1+2+3"),
                Claim("AP", "without block 2", "93.16", ("58.00",), "hetpure:blocks=0+2+3"),
                Claim(
                    "AP",
                    "without block 3",
                    "93.35",
                    ("57.61",),
                    "hetpure:blocks=0+1+3",
                    "E24: standard accuracy rises",
                ),
                Claim("AP", "without block 4", "91.66", ("58.85",), "hetpure:blocks=0+1+2"),
                Claim("AP", "all blocks", "93.16", ("59.38",), METHOD),
            ),
        ),
        Table(
            "Table 8",
            "SVHN, WideResNet-28-10, l-infinity 8/255; rows of adversarial training under"
            " AutoAttack",
            ("PGD+EOT",),
            (
                Claim(
                    "AT", "Rade & Moosavi-Dezfooli (ResNet-18)", "93.08", ("52.83",), "at", NO_SVHN
                ),
                Claim("AT", "Gowal et al. 2020", "92.87", ("56.83",), note=NO_SVHN),
                Claim("AT", "Gowal et al. 2021", "94.15", ("60.90",), note=NO_SVHN),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure, t* = 0.2)",
                    "92.57",
                    ("35.54",),
                    "sde:t=0.2",
                    "E25; by DDIM: uniform:t=0.2",
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure, t* = 0.3)",
                    "85.74",
                    ("45.12",),
                    "sde:t=0.3",
                    "E25; by DDIM: uniform:t=0.3",
                ),
                Claim(
                    "AP",
                    "Nie et al. (DiffPure, t* = 0.4)",
                    "73.63",
                    ("43.55",),
                    "sde:t=0.4",
                    "E25; by DDIM: uniform:t=0.4",
                ),
                Claim(
                    "AP", "Lee & Kim", "95.55", ("49.65",), GRADUAL["svhn"], "E25: other networks"
                ),
                Claim(
                    "AP",
                    "the method",
                    "90.04",
                    ("62.50",),
                    "hetpure:t_l=0.4,t_s=0.2",
                    "E25: levels not stated",
                ),
            ),
            bench="svhn-small",
        ),
    )
}


# Fig 8 and §7 as (multi-step, single-step) for U = 20 and 10 sampling steps: seconds, and gigabytes
# of GPU memory.
COST = {"time": (64.0, 7.0), "memory": (27.4, 3.4)}


# ---- every element and where it is ---------------------------------------------------------------
