"""Symbols of the chapters lead to their rows of the notation, and show them on hover.

A symbol is inline mathematics that is one entry of the notation's tables and nothing else. The
first of each in a section becomes a link; a link on every one would make a page of links.
"""

from __future__ import annotations

import re

from bs4 import BeautifulSoup, Tag

NOTATION = "book/notation.html"
OTHER = "other-meanings"  # the section of symbols that mean something else somewhere
# tables: there a symbol may stand for the paper's own, such as its x_0
NO_LINKS_IN = ["a", "h1", "h2", "h3", "h4", "h5", "h6", "table", "dt", "summary", "pre", "button"]


def tex(math: Tag) -> str:
    """The TeX of inline mathematics, in one spelling: what a network has learned is coloured in
    some places and not in others.
    """
    text = math.get_text().removeprefix(r"\(").removesuffix(r"\)")
    text = re.sub(r"\\learned\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\1", text)
    return " ".join(text.replace(r"\bar\alpha", r"\abar").split())


def letters(symbol: str) -> list[str]:
    return re.findall("[A-Za-z0-9]+", symbol)


def anchor_symbols(page: BeautifulSoup) -> dict[str, str]:
    """Give each row of a symbol an anchor, ``symbol-tau``; the anchors by TeX."""
    anchors: dict[str, str] = {}
    for row in page.select(f"article section:not(#{OTHER}) > :is(table, div) tbody > tr"):
        symbols = [tex(math) for math in row.find("td").select("span.math")]
        if symbols:
            row["id"] = "-".join(["symbol", *letters(symbols[0])])
            anchors |= dict.fromkeys(symbols, row["id"])
    return anchors


def link_symbols(page: BeautifulSoup, anchors: dict[str, str], name: str) -> None:
    """Make the first use of each symbol in each section a link to its row."""
    target = "../" * name.count("/") + NOTATION
    for section in page.select("article section"):
        met = set()
        for math in section.select("span.math"):
            symbol = tex(math)
            if symbol not in anchors or symbol in met or not _may_lead(math, section):
                continue
            met.add(symbol)
            href = f"{target}#{anchors[symbol]}"
            link = page.new_tag("a", attrs={"class": "symbol", "href": href})
            # letters are read aloud everywhere, set formulas only by some readers
            link["aria-label"] = " ".join(letters(symbol.replace(r"\mathcal", "")))
            math.wrap(link)


def _may_lead(math: Tag, section: Tag) -> bool:
    titled = math.find_parent(NO_LINKS_IN) or math.find_parent(class_="admonition-title")
    return not titled and math.find_parent("section") is section


def symbol_preview(row: Tag) -> str:
    """What a symbol is, and all that it is elsewhere: no reader should take one for the other."""
    symbol, code, meaning, reach = map(_inside, row.find_all("td")[:4])
    said = [f"<strong>{symbol}</strong> {code}", meaning, reach]
    symbols = {tex(math) for math in row.find("td").select("span.math")}
    page = row.find_parents()[-1]
    for other in page.select(f"#{OTHER} tbody > tr"):
        cells = other.find_all("td")
        if symbols & {tex(math) for cell in cells[:2] for math in cell.select("span.math")}:
            symbol, meaning, where = map(_inside, cells)
            said.append(f"<strong>{symbol}</strong> elsewhere ({where}): {meaning}")
    return "".join(f"<p>{sentence}</p>" for sentence in said)


def _inside(cell: Tag) -> str:
    return (cell.p or cell).decode_contents()
