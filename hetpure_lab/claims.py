"""What the paper claims: its tables as data, with the errata of `book/errata` noted where they touch a number.

Accuracies are percentages; `sd` values are the paper's run-to-run standard deviations on one fixed subset, not intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Claim:
    """One row of a table. `ours` is the start of the defence spec that measures this row here, "" if nothing does yet; `eps` the radius of
    the attack behind the numbers, if it is known to differ from the caption's.
    """

    kind: str
    method: str
    standard: str
    robust: tuple[str, ...]
    ours: str = ""
    note: str = ""
    eps: float | None = None

    def at(self, eps: float) -> Claim:
        """The row in a table of radius `eps`: without its robust accuracies if they are of another."""
        same = self.eps is None or math.isclose(self.eps, eps)
        return self if same else replace(self, robust=("other radius",) * len(self.robust))


@dataclass(frozen=True)
class Table:
    """A table of the paper: its caption in our words, the attacks of its robust columns, its rows; `eps` if not the norm's usual radius."""

    name: str
    caption: str
    attacks: tuple[str, ...]
    rows: tuple[Claim, ...]
    eps: float | None = None


DIFFPURE, METHOD = "uniform:t=0.1", "hetpure"
STRONGER = "hetpure:t_l=0.4,t_s=0.2,steps=6"
GRADUAL = {
    "svhn": "gradual:levels=30+30+30+30+50+50+80+80,steps=2+2+2+2+4+4+6+6",
    "imagenet": "gradual:levels=30+30+30+30+50+50+200+200,steps=1+1+1+1+2+2+6+6",
}
QUOTED = "D6: attacked at 4/255"

TABLES = {
    t.name: t
    for t in (
        Table(
            "Table 1",
            "CIFAR-10, WideResNet-28-10, l-infinity 8/255",
            ("PGD+EOT", "AutoAttack"),
            (
                Claim("AT", "Gowal et al. 2021", "88.54", ("65.93", "63.38"), note="E28: the clean values of the AT rows look swapped"),
                Claim("AT", "Gowal et al. 2020", "87.51", ("66.01", "62.76"), note="E28"),
                Claim("AT", "Pang et al.", "88.62", ("64.95", "61.04")),
                Claim("AP", "Yoon et al.", "85.66±0.51", ("33.48±0.86", "59.53±0.87")),
                Claim("AP", "Nie et al. (DiffPure)", "90.07±0.97", ("56.84±0.59", "63.6±0.81"), DIFFPURE, "a misprint of 46.84±1.44?"),
                Claim("AP", "Lee & Kim", "90.16±0.64", ("55.82±0.59", "70.47±1.53")),
                Claim("AP", "Bai et al.", "91.41", ("49.22 (half the iterations)", "77.08")),
                Claim("AP", "Zollicoffer et al.", "84.20", ("-", "59.14"), note="E32: printed as Geigh et al."),
                Claim("AP", "Lin et al.", "90.62", ("-", "72.85")),
                Claim("AP", "the method", "93.16±0.21", ("59.38±1.25", "80.45±1.54"), METHOD, "E34: AutoAttack above PGD"),
            ),
        ),
        Table(
            "Table 2",
            "CIFAR-10, WideResNet-70-16, l-infinity 8/255",
            ("PGD+EOT", "AutoAttack"),
            (
                Claim("AT", "Rebuffi et al.", "92.22", ("69.97", "66.56")),
                Claim("AT", "Gowal et al. 2020", "91.10", ("68.66", "66.10"), note="E28: AutoAttack values swapped"),
                Claim("AT", "Gowal et al. 2021", "88.75", ("69.03", "65.87"), note="E28"),
                Claim("AP", "Yoon et al.", "86.76±1.15", ("37.11±1.35", "60.86±0.56")),
                Claim("AP", "Nie et al. (DiffPure)", "90.43±0.60", ("51.13±0.87", "66.06±1.17")),
                Claim("AP", "Lee & Kim", "90.53±0.1", ("56.88±1.06", "70.31±0.62"), note="E31"),
                Claim("AP", "Bai et al.", "92.97", ("48.83 (half the iterations)", "79.10")),
                Claim("AP", "Zollicoffer et al. (a)", "84.60", ("-", "66.40"), note="E31: two rows under one name"),
                Claim("AP", "Zollicoffer et al. (b)", "86.90", ("-", "59.20"), note="E31"),
                Claim("AP", "Lin et al.", "91.99", ("-", "76.37")),
                Claim("AP", "the method", "93.36±0.59", ("59.79±0.61", "84.83±0.59"), note="E34"),
            ),
        ),
        Table(
            "Table 3",
            "CIFAR-10, WideResNet-28-10, l2 0.5",
            ("PGD+EOT", "AutoAttack"),
            (
                Claim("AT", "Rebuffi et al.", "91.79", ("85.05", "78.80"), note="E29"),
                Claim("AT", "Augustin et al.", "93.96", ("86.14", "78.79")),
                Claim("AT", "Sehwag et al.", "90.93", ("83.75", "77.24"), note="E32"),
                Claim("AP", "Yoon et al.", "85.66±0.51", ("73.32±0.76", "79.57±0.38")),
                Claim("AP", "Nie et al. (DiffPure)", "91.41±1.00", ("79.45±1.16", "81.7±0.84"), DIFFPURE),
                Claim("AP", "Lee & Kim", "90.16±0.64", ("83.59±0.88", "86.48±0.38")),
                Claim("AP", "Bai et al.", "93.75", ("86.13 (half the iterations)", "80.92")),
                Claim("AP", "Zollicoffer et al. (a)", "84.40", ("-", "77.90")),
                Claim("AP", "Zollicoffer et al. (b)", "84.20", ("-", "73.60")),
                Claim("AP", "Lin et al.", "90.62", ("-", "80.47")),
                Claim("AP", "the method", "93.16±0.21", ("87.11±0.95", "90.25±0.80"), METHOD, "D1: the release attacks at 8/255, not 0.5"),
            ),
        ),
        Table(
            "Table 4",
            "CIFAR-10, WideResNet-70-16, l2 0.5",
            ("PGD+EOT", "AutoAttack"),
            (
                Claim("AT", "Rebuffi et al. (extra data)", "95.74", ("89.62", "82.32")),
                Claim("AT", "Gowal et al. 2020", "94.74", ("88.18", "80.53")),
                Claim("AT", "Rebuffi et al.", "92.41", ("86.24", "80.42")),
                Claim("AP", "Yoon et al.", "86.76±1.15", ("75.67±1.29", "80.43±0.42"), note="E31: printed 75.666"),
                Claim("AP", "Nie et al. (DiffPure)", "92.15±0.72", ("82.97±1.38", "83.06±1.27")),
                Claim("AP", "Lee & Kim", "90.53±0.14", ("83.75±0.99", "85.59±0.61"), note="E31"),
                Claim("AP", "Bai et al.", "92.97", ("84.37 (half the iterations)", "83.01")),
                Claim("AP", "Lin et al.", "91.99", ("-", "81.35")),
                Claim("AP", "the method", "93.36±0.59", ("87.7±0.97", "91.71±1.09")),
            ),
        ),
        Table(
            "Table 5",
            "CIFAR-10, WideResNet-28-10, BPDA+EOT, l-infinity 8/255",
            ("BPDA+EOT",),
            (
                Claim("AP", "Song et al. (PixelDefend)", "95.00", ("9.00",)),
                Claim("AP", "Yang et al. (ME-Net)", "94.00", ("15.00",)),
                Claim("AP", "Hill et al.", "84.12", ("54.90",)),
                Claim("AP", "Yoon et al.", "85.66±0.51", ("66.91±1.75",)),
                Claim("AP", "Nie et al. (DiffPure)", "90.07±0.97", ("81.45±1.51",), DIFFPURE),
                Claim("AP", "Bai et al.", "91.37±1.21", ("85.51±0.81",)),
                Claim("AP", "Wang et al. (GDMP)", "89.96±0.40", ("75.59±1.26",)),
                Claim("AP", "Song et al. (MimicDiffusion)", "89.88±0.35", ("88.43±0.83",)),
                Claim("AP", "Lee & Kim", "90.16±0.64", ("88.40±0.88",)),
                Claim("AP", "the method", "93.04±0.65", ("86.72±0.20",), METHOD),
            ),
        ),
        Table(
            "Table 6",
            "ImageNet, ResNet-50, l-infinity 8/255 by its caption; the quoted rows were attacked at 4/255 (D6)",
            ("PGD+EOT",),
            (
                Claim("AT", "Salman et al.", "63.86", ("39.11",), note=QUOTED, eps=4 / 255),
                Claim("AT", "Engstrom et al.", "62.42", ("33.20",), note=QUOTED, eps=4 / 255),
                Claim("AT", "Wong et al.", "53.83", ("28.04",), note=QUOTED, eps=4 / 255),
                Claim("AP", "Nie et al. (DiffPure, t* = 0.2)", "73.96", ("40.63",), "uniform:t=0.2,steps=6", QUOTED, 4 / 255),
                Claim("AP", "Nie et al. (DiffPure, t* = 0.3)", "72.85", ("48.24",), "uniform:t=0.3,steps=6", QUOTED, 4 / 255),
                Claim("AP", "Nie et al. (DiffPure, t* = 0.4)", "61.71", ("41.67",), "uniform:t=0.4,steps=6", QUOTED, 4 / 255),
                Claim("AP", "Bai et al.", "70.41", ("41.7",), note=QUOTED, eps=4 / 255),
                Claim("AP", "Lee & Kim", "71.42", ("46.59",), GRADUAL["imagenet"], QUOTED, 4 / 255),
                Claim("AP", "Song et al. (MimicDiffusion)", "62.25", ("51.14",), note="radius of the source not known"),
                Claim("AP", "Zollicoffer et al.", "73.98", ("56.54",), note="E32: printed as Geigh et al.; radius of the source not known"),
                Claim("AP", "the method", "74.51±1.07", ("60.06±1.66",), STRONGER, "E22; C3: another classifier"),
            ),
            eps=8 / 255,
        ),
        Table(
            "Table 8",
            "SVHN, WideResNet-28-10, l-infinity 8/255; rows of adversarial training under AutoAttack",
            ("PGD+EOT",),
            (
                Claim("AT", "Rade & Moosavi-Dezfooli (ResNet-18)", "93.08", ("52.83",), note="E25: AutoAttack"),
                Claim("AT", "Gowal et al. 2020", "92.87", ("56.83",), note="E25: AutoAttack"),
                Claim("AT", "Gowal et al. 2021", "94.15", ("60.90",), note="E25: AutoAttack"),
                Claim("AP", "Nie et al. (DiffPure, t* = 0.2)", "92.57", ("35.54",), "uniform:t=0.2", "E25"),
                Claim("AP", "Nie et al. (DiffPure, t* = 0.3)", "85.74", ("45.12",), "uniform:t=0.3", "E25"),
                Claim("AP", "Nie et al. (DiffPure, t* = 0.4)", "73.63", ("43.55",), "uniform:t=0.4", "E25"),
                Claim("AP", "Lee & Kim", "95.55", ("49.65",), GRADUAL["svhn"], "E25: other networks"),
                Claim("AP", "the method", "90.04", ("62.50",), "hetpure:t_l=0.4,t_s=0.2", "E25: levels not stated"),
            ),
        ),
    )
}
