"""A slider over pictures that are already drawn: `slider` in a chapter, moved by the book's script.

Every frame travels inside the page, so it works from files, in Jupyter and in the run page. Without
the script, and on paper, the chosen frame stands still.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure

from hetpure_lab.report import plots


def slider(frames: Mapping[object, Figure], label: str, chosen: object, alt: str) -> HTML:
    """One picture per value of a setting, and a slider that chooses among them.

    `label` is said beside the slider; `chosen` is the value shown first, and alone without a
    script. `alt` describes the pictures; each frame's value is added to it. The figures are closed.
    """
    if chosen not in frames:
        known = ", ".join(map(str, frames))
        raise ValueError(f"no frame for the chosen value {chosen!r}; there are: {known}")
    parts = [
        _frame(value, figure, value == chosen, f"{alt}; {label} {value}")
        for value, figure in frames.items()
    ]
    hide = "" if len(parts) < 2 else "<style>.slider figure:not(.chosen) { display: none; }</style>"
    return HTML(f'{hide}<div class="slider" data-label="{escape(label)}">{"".join(parts)}</div>')


def _frame(value: object, figure: Figure, chosen: bool, alt: str) -> str:
    kind = "png" if plots.photographs(figure) else "svg"
    written = io.BytesIO()
    figure.savefig(written, format=kind, metadata=plots.UNDATED[kind])
    plt.close(figure)
    mime = "image/png" if kind == "png" else "image/svg+xml"
    source = f"data:{mime};base64,{base64.b64encode(written.getvalue()).decode()}"
    mark = ' class="chosen"' if chosen else ""
    return (
        f'<figure{mark} data-value="{escape(str(value))}"><img src="{source}"'
        f' alt="{escape(alt)}"></figure>'
    )
