"""A slider over pictures that are already drawn, for chapters: in the book, in Jupyter and on the
page of a run.

Every frame and the few lines that move it travel inside the output, so nothing is fetched and no
kernel is needed. Without scripts, and on paper, the chosen frame stands still.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure

from hetpure_lab.report import plots

STYLE = """<style>
.slider figure { margin: 0; }
.slider figure:not(.chosen) { display: none; }
.slider img { height: auto; max-width: 100%; }
.slider-bar { align-items: center; display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 0.5rem 0; }
.slider-bar input { flex: 1 1 10rem; min-width: 0; }
.slider-bar output { font-variant-numeric: tabular-nums; min-width: 5rem; }
@media print { .slider-bar { display: none; } }
</style>"""
# A chapter may have several sliders, and a cell may run again: each is set up once.
SCRIPT = """<script>
for (const slider of document.querySelectorAll(".slider:not(:has(.slider-bar))")) {
  const frames = [...slider.querySelectorAll("figure")];
  const make = (name, set) => Object.assign(document.createElement(name), set);
  const id = `slider-${[...document.querySelectorAll(".slider")].indexOf(slider)}`;
  const label = make("label", { htmlFor: id, textContent: slider.dataset.label });
  const start = frames.findIndex((frame) => frame.classList.contains("chosen"));
  const input = make("input", { id, type: "range", min: 0, max: frames.length - 1, step: 1 });
  const output = make("output", {});
  const update = () => {
    frames.forEach((frame, i) => frame.classList.toggle("chosen", i === Number(input.value)));
    output.value = frames[input.value].dataset.value;
    input.setAttribute("aria-valuetext", `${slider.dataset.label} ${output.value}`);
  };
  input.value = start;
  input.addEventListener("input", update);
  const bar = make("div", { className: "slider-bar" });
  bar.append(label, input, output);
  slider.prepend(bar);
  update();
}
</script>"""


def slider(frames: Mapping[object, Figure], label: str, chosen: object, alt: str) -> HTML:
    """One picture per value of a setting, and a slider that chooses among them.

    `label` is said beside the slider; `chosen` is the value shown first, and alone without a
    script. `alt` describes the pictures; each frame's value is added to it. The figures are closed.
    Raises `ValueError` if there is no frame for `chosen`.
    """
    if chosen not in frames:
        known = ", ".join(map(str, frames))
        raise ValueError(f"no frame for the chosen value {chosen!r}; there are: {known}")
    parts = [
        _frame(value, figure, value == chosen, f"{alt}; {label} {value}")
        for value, figure in frames.items()
    ]
    box = f'<div class="slider" data-label="{escape(label)}">{"".join(parts)}</div>'
    return HTML(box if len(parts) < 2 else STYLE + box + SCRIPT)


def _frame(value: object, figure: Figure, chosen: bool, alt: str) -> str:
    pixels = plots.photographs(figure)
    data, about = plots.png(figure) if pixels else (plots.svg(figure), {})
    plt.close(figure)
    mime = "image/png" if pixels else "image/svg+xml"
    source = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    width = f' width="{about["width"]}"' if about else ""
    mark = ' class="chosen"' if chosen else ""
    return (
        f'<figure{mark} data-value="{escape(str(value))}"><img src="{source}"{width}'
        f' alt="{escape(alt)}"></figure>'
    )
