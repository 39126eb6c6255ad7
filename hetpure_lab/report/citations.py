"""Labels of citations, in the text and in the list of references: "Pei et al., 2025a"."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from string import ascii_lowercase

from pybtex.database import parse_file
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting.author_year_title import SortingStyle

from hetpure_lab.common.paths import ROOT

REFERENCES = ROOT / "book" / "references.bib"


class AuthorYearLabels(BaseLabelStyle):
    """ "Pei et al., 2025a": letters tell works of one author and year apart."""

    def format_labels(self, sorted_entries):
        labels = [self.label(entry) for entry in sorted_entries]
        count, seen = Counter(labels), Counter()
        for label in labels:
            letter = ascii_lowercase[seen[label]] if count[label] > 1 else ""
            seen[label] += 1
            yield label + letter

    @staticmethod
    def label(entry) -> str:
        people = [" ".join(p.prelast_names + p.last_names) for p in entry.persons["author"]]
        others = f" and {people[1]}" if len(people) == 2 else " et al." if people[2:] else ""
        return f"{people[0]}{others}, {entry.fields['year']}".replace("{", "").replace("}", "")


class Style(Unsorted):
    """The list of references: by author and year, with the labels of the text."""

    default_label_style = AuthorYearLabels
    default_sorting_style = SortingStyle


@cache
def labels(path: Path = REFERENCES) -> dict[str, str]:
    """The label of every entry of a bibliography, by its key."""
    entries = SortingStyle().sort(parse_file(str(path)).entries.values())
    return {e.key: label for e, label in zip(entries, AuthorYearLabels().format_labels(entries))}
