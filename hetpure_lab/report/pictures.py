"""What the chapters on the method show: the same fixed images, verdicts under pictures, and source
code beside its formula.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from torch import Tensor

from hetpure_core import Purified, trajectory
from hetpure_lab import data
from hetpure_lab.data import Images, Shipped
from hetpure_lab.defences import capabilities
from hetpure_lab.defences.behind import Behind
from hetpure_lab.report import plots
from hetpure_lab.report.formulas import on_a_line


class Gallery(Images):
    """The images that a chapter may show, and what it shows of them: nothing else here draws an
    image.

    Committed pages are of images that may be passed on. So a gallery is made from `Shipped` images,
    or by `first_images` from a folder that the reader named, for her own eyes.
    """

    def figure(
        self, rows: dict[str, Sequence[Tensor]], columns: Sequence[str] = (), size: float = 0.95
    ) -> plt.Figure:
        """One row of pictures per entry, with 5 bits per colour, which nobody sees at this size: it
        keeps a chapter full of noise below a few megabytes.
        """
        return grid(rows, columns, size)

    def show(
        self, rows: dict[str, Sequence[Tensor]], columns: Sequence[str] = (), size: float = 0.95
    ) -> None:
        """Show the `figure`."""
        self.figure(rows, columns, size)
        plt.show()

    def show_verdicts(
        self, rows: dict[str, Tensor], verdicts: dict[str, Tensor], classes: Sequence[str]
    ) -> None:
        """`show`, with the true class above and, in the rows named in `verdicts`, the predicted
        class below; a wrong one is marked ✗.
        """
        figure = grid(rows, [classes[label] for label in self.labels])
        lines = torch.arange(len(figure.axes)).reshape(len(rows), -1)
        for line, name in zip(lines, rows):
            for axis, predicted, label in zip(line, verdicts.get(name, ()), self.labels):
                right = int(predicted) == int(label)
                colour = plots.COLOURS["clean" if right else "adversarial"]
                text = ("" if right else "✗ ") + classes[predicted]
                figure.axes[axis].set_xlabel(text, fontsize=6, color=colour, labelpad=1.5)
        plt.show()


def first_images(dataset: str, n: int, folder: str = "") -> Gallery:
    """The first `n` images that Foolbox ships for `dataset`, whatever is on the machine: nobody
    picked them, and they may be passed on.

    With a `folder`, the first test images in it: for your own eyes, not for a committed page.
    """
    images = data.load(dataset, "test", folder, quiet=True) if folder else data.shipped(dataset)
    if not 1 <= n <= len(images):
        raise ValueError(
            f"n_images must be from 1 to {len(images)} ({images.source} has {len(images)} images),"
            f" not {n}"
        )
    return _gallery(images[torch.arange(n)])


def gallery(images: Shipped) -> Gallery:
    """All of `images`, to be shown. Raises `ValueError` for images that may not be passed on."""
    if not isinstance(images, Shipped):
        raise ValueError(
            f"{images.source} may not be passed on: show the sample that a package ships"
        )
    return _gallery(images)


def _gallery(images: Images) -> Gallery:
    return Gallery(**{field.name: getattr(images, field.name) for field in fields(Images)})


def show_source(*functions: Callable) -> Markdown:
    """The source of `functions` as Markdown, so that Jupyter, Colab and the book all colour it;
    formulas of docstrings are text.
    """
    sources = (on_a_line(textwrap.dedent(inspect.getsource(f)).rstrip()) for f in functions)
    return Markdown("\n".join(f"```python\n{source}\n```" for source in sources))


STEPS = ("step", "guided_step", "optimise", "transform", "mask", "purify", "plan")


def step_of(purifier: object) -> Callable:
    """What a purifier does that others do not: the first of `STEPS` that its own class, or else the
    nearest base, defines.
    """
    for kind in type(purifier).__mro__:
        for name in STEPS:
            if name in vars(kind) and inspect.isfunction(vars(kind)[name]):
                return vars(kind)[name]
    raise ValueError(f"{purifier!r} has no step to show")


def grid(
    rows: dict[str, Sequence[Tensor]], columns: Sequence[str], size: float = 0.95
) -> plt.Figure:
    """Rows of pictures with 5 bits per colour, which nobody sees at this size."""
    return plots.show_rows(
        {name: [(31 * image).round() / 31 for image in images] for name, images in rows.items()},
        columns,
        size,
    )


def purification_rows(defended: Purified | Behind, images: Images) -> dict[str, Tensor]:
    """What a purifier does to images, for `show`: its first, its middle and its last state, and
    what it changed (grey: nothing).
    """
    x, noise = (
        images.floats.to(next(defended.classifier.parameters()).device),
        defended.noise(len(images), images.ids),
    )
    with torch.no_grad():
        if capabilities(defended.purifier).own_networks:  # a single step
            rows = {"purified": defended.purify(x, noise)}
        else:
            states = [
                (state + 1) / 2 for _, state in trajectory(2 * x - 1, defended.plan(x, noise))
            ]
            rows = {
                "start": states[0],
                "half-way": states[len(states) // 2],
                "purified": states[-1],
            }
    return {"image": x} | rows | {"change, ±1/4": plots.difference(rows["purified"], x, 0.25)}


def lines_per_image(
    axis: Axes, x: Sequence[float], values: Tensor, label: str, colour: str
) -> None:
    """One faint line per image, `values` being (len(x), n), and their mean."""
    axis.plot(x, values, color=colour, alpha=0.25, linewidth=0.7)
    axis.plot(x, values.mean(1), color=colour, linewidth=1.8, label=label)
