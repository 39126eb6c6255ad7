"""One style and one colour per method for every picture in the book: plots as SVG, photographs as
PNG.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import seaborn as sns
import torch
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure
from torch import Tensor

from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES

ROLES = ("clean", "adversarial", "uniform", "hetpure", "null", "paper")
COLOURS = dict(zip(ROLES, [*sns.color_palette("colorblind", 5).as_hex(), "#888888"]))
COLOURS["adversarial"] = "#d08400"  # the nearest to the palette's that is 3:1 on white
# the method's three orders of operations
READINGS = {"multi-step": "#555555", "paper": COLOURS["hetpure"], "released": "#8c6bb1"}
# degrees that are far from those of the roles: for rivals
HUES = [*range(55, 140), *range(170, 232), *range(256, 308), *range(328, 370)]
WIDTH = 6.8
# so that a rerun writes the same bytes
UNDATED = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def colour(defence: str) -> str:
    """The one colour of a defence in the whole book, by its slug: that of its role, or for rivals
    one by their place in `DEFENCES`.

    Rivals go through `HUES` in steps of the golden section, in three shades, so that a new one
    changes no other's colour. Raises `ValueError` for unknown slugs.
    """
    slug = defence.partition(":")[0]
    if slug not in DEFENCES:
        raise ValueError(f"unknown defence {slug!r}; known: {', '.join(DEFENCES)}")
    if slug in COLOURS or slug == "none":
        return COLOURS.get(slug, COLOURS["clean"])
    rank = list(DEFENCES).index(slug)
    hue = HUES[int(rank * 0.618034 % 1 * len(HUES))]
    return sns.husl_palette(
        1, h=hue / 360 % 1, s=(0.6, 0.9)[rank % 2], l=(0.35, 0.7, 0.5)[rank % 3]
    ).as_hex()[0]


def style() -> None:
    """Apply the book's style: white ground (legible on light and dark pages), 8 pt,
    colour-blind-safe; notebooks show SVG or PNG.
    """
    sns.set_theme(
        context="paper", style="whitegrid", palette="colorblind", font="DejaVu Sans", font_scale=0.9
    )
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 220,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "svg.hashsalt": "hetpure",
        }
        | {
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "image.cmap": "magma",
        }
    )
    if shell := get_ipython():
        # loading the backend of notebooks registers formats of its own: that comes first
        plt.switch_backend(plt.get_backend())
        formatters = shell.display_formatter.formatters
        formatters["image/svg+xml"].for_type(
            Figure, lambda f: None if photographs(f) else (svg(f).decode(), origin(f))
        )
        formatters["image/png"].for_type(Figure, lambda f: _shown(f) if photographs(f) else None)


def svg(figure: Figure) -> bytes:
    """A figure as SVG."""
    return print_figure(figure, "svg", metadata=UNDATED["svg"]).encode()


def png(figure: Figure) -> tuple[bytes, dict]:
    """A figure as PNG at twice the resolution of a screen, and the size at which it is meant."""
    data = print_figure(figure, "png", metadata=UNDATED["png"], dpi=2 * figure.dpi)
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))  # of the IHDR chunk
    return data, {"width": width // 2, "height": height // 2}


def _shown(figure: Figure) -> tuple[str, dict]:
    data, size = png(figure)
    return b64encode(data).decode(), origin(figure) | size


def note(figure: Figure, records: Sequence[str]) -> None:
    """Remember which files of records a figure shows, by their path from the repository's root."""
    figure.records = sorted({*getattr(figure, "records", ()), *records})


def origin(figure: Figure) -> dict:
    """What a notebook keeps beside a figure, in its output's metadata; `chapters.execute` adds the
    cell and the commit.
    """
    return {"records": getattr(figure, "records", [])}


def sizes(counts: Iterable[int]) -> str:
    """On how many images a figure's values are: "n = 64", or "n = 32 to 128"."""
    found = sorted(set(counts)) or [0]
    return f"n = {' to '.join(map(str, dict.fromkeys((found[0], found[-1]))))}"


def reach(a: Accuracy) -> list[list[float]]:
    """How far an interval reaches below and above its value, in per cent, as error bars take it."""
    # an interval without width may miss its value by a rounding error
    return [[100 * max(0.0, a.value - a.low)], [100 * max(0.0, a.high - a.value)]]


def photographs(figure: Figure) -> bool:
    """Whether a figure contains pixels, and so becomes a PNG."""
    return any(axis.images for axis in figure.axes)


def to_numpy(image: Tensor):
    """One image (3, h, w) or map (1, h, w) for `imshow`, clipped to [0, 1]."""
    image = image.detach().float().cpu().clamp(0, 1)
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()


def show_rows(
    rows: dict[str, Sequence[Tensor]], columns: Sequence[str] = (), size: float = 0.85
) -> plt.Figure:
    """A grid of pictures: one labelled row per entry, one optional title per column. Maps are drawn
    in `magma` on [0, 1].
    """
    n_columns = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(
        len(rows),
        n_columns,
        figsize=(size * n_columns + 0.9, size * len(rows) + 0.15),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        sns.despine(ax=axis, left=True, bottom=True)
    for line, (label, images) in zip(axes, rows.items()):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axis, image in zip(line, images):
            axis.imshow(to_numpy(image), vmin=0, vmax=1, interpolation="nearest")
    for axis, title in zip(axes[0], columns):
        axis.set_title(title, fontsize=7)
    return figure


def difference(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """a - b on a scale where grey is 0 and black or white are -radius and +radius."""
    return (a - b) / (2 * radius) + 0.5


def overlay(image: Tensor, mask: Tensor, strength: float = 0.6) -> Tensor:
    """An image whose unattended pixels (mask 0) are faded towards white."""
    return image * (strength * mask + 1 - strength) + (1 - mask) * strength * torch.ones_like(image)
