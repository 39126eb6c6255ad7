"""An audit's checklist as a table for the page."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hetpure_lab.audit.checks import Check, Verdict
from hetpure_lab.paper import elements
from hetpure_lab.report import figures, tables


def frame(rows: Sequence[tuple[Check, Verdict]]) -> pd.DataFrame:
    """The checklist as a table."""
    lines = [(c.name, c.question, v.state, v.seen, c.chapter, v.record) for c, v in rows]
    return pd.DataFrame(
        lines, columns=["check", "question", "verdict", "seen", "chapter", "record"]
    )


def show(rows: Sequence[tuple[Check, Verdict]], *columns: str) -> tables.Table:
    """The checklist for the page, or some columns of it: verdicts in their colours, chapters and
    records as links.
    """
    table = frame(rows)[list(columns)] if columns else frame(rows)
    colour = lambda state: (
        f"color: {figures.STATES[state][0]}; font-weight: bold" if state in figures.STATES else ""
    )
    said = f"{len(rows)} checks of an audit, and what was seen."
    styled = tables.show(table, said).map(colour, subset=["verdict"])
    link = lambda number: (
        f'<a href="{path.name}">{number}</a>' if (path := elements.chapter(number)) else str(number)
    )
    return styled.format(link, subset=["chapter"]) if "chapter" in table else styled
