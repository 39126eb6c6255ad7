"""Whether two places of the book answer one question differently.

An *answer* is a word about a difference: higher, lower or open. A *question* is either a printed
interval, which belongs to one paired comparison, or one of `QUESTIONS`, which sentences without an
interval answer too. Places are all generated and written pages, the included parts, the README, and
sources and outputs of every chapter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from hetpure_lab.common.paths import ROOT
from hetpure_lab.evidence.compare import NOT_HERE

HIGHER, LOWER, OPEN = "higher", "lower", "open"
INTERVAL = re.compile(r"([+-]?\d+\.\d+) \[([+-]?\d+\.\d+), ([+-]?\d+\.\d+)\]")
# Words that decide a printed difference, longest first; verdicts are of a claim, see `_claimed`.
WORDS = {
    NOT_HERE: LOWER,
    "not told apart": OPEN,
    "inconclusive": OPEN,
    "verified": HIGHER,
    "falsified": LOWER,
    "higher": HIGHER,
    "larger": HIGHER,
    "above": HIGHER,
    "lower": LOWER,
    "smaller": LOWER,
    "below": LOWER,
}
WORD = re.compile(r"\b(" + "|".join(map(re.escape, WORDS)) + r")\b")
VERDICTS = ("verified", "falsified", NOT_HERE)  # of a claim, whose sign `_claimed` finds
TWO_SIDED = "does what 20 repetitions do"  # a claim that any difference decides against
CLAIMED = re.compile(r"(?<![\d.[])[+-]\d+\.\d\d(?!\d)")  # a printed gap, as scorecards have it


@dataclass(frozen=True)
class Answer:
    """What a `place` says of a question: one of the words, and the text that says so."""

    place: str
    question: str
    word: str
    quoted: str


# ---- places ----------------------------------------------------------------------------------


def texts(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Every place with its text: pages, included parts, README, sources and outputs of chapters."""
    book = root / "book"
    pages = [*book.glob("*.md"), *book.glob("claims/*.md"), *book.glob("_include/*.md")]
    for path in sorted([*pages, root / "README.md"]):
        yield path.relative_to(root).as_posix(), path.read_text()
    for path in sorted((root / "chapters").glob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text())["cells"]):
            place = f"{path.relative_to(root).as_posix()} cell {i}"
            if cell["cell_type"] == "markdown":
                yield place, "".join(cell["source"])
            for output in cell.get("outputs", ()):
                yield place, _shown(output)


def _shown(output: dict) -> str:
    """An output as a reader sees it."""
    data = output.get("data", {})
    for kind in ("text/markdown", "text/html", "text/plain"):
        if kind in data:
            return "".join(data[kind])
    return "".join(output.get("text", ""))


def lines(text: str) -> Iterator[str]:
    """Rows of tables, items of lists and sentences, without markup, in one line each. What the
    paper says (block quotes), code and headings are no answers."""
    text = re.sub(r"```.*?```|<svg.*?</svg>|<style.*?</style>", " ", text, flags=re.DOTALL)
    text = re.sub(r"<tr.*?>(.*?)</tr>", _row, text, flags=re.DOTALL)
    text = unescape(re.sub(r"<[^>]+>", "", text)).replace("\u00a0", " ")
    for block in re.split(r"\n\s*\n|\n(?=[-*|>#] ?)", text):
        block = re.sub(r"\s+", " ", block).strip()
        if block.startswith((">", "#")):
            continue
        if block.startswith(("|", "- ")):
            yield block
        else:
            yield from re.split(r"(?<=[.!?]) (?=[A-Z*])", block)


def _row(found: re.Match) -> str:
    """A row of an HTML table as one of Markdown."""
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", found[1], flags=re.DOTALL)
    return "\n\n| " + " | ".join(re.sub(r"\s+", " ", c) for c in cells) + " |\n\n"


# ---- answers with an interval ----------------------------------------------------------------


def of_intervals(place: str, line: str) -> Iterator[Answer]:
    """Each word of a line with the interval that it is about: the next one if the first word comes
    before the first interval, else the one before. In a row of a table with bold words, and of
    a claim, only those answer: the statement has words of its own."""
    marked = line.startswith(("|", "**"))
    bold = [m for m in WORD.finditer(line) if marked and line[: m.start()].endswith("**")]
    words, found = bold or list(WORD.finditer(line)), list(INTERVAL.finditer(line))
    if not words or not found:
        return
    after = words[0].start() < found[0].start()
    if len(words) == len(found) > 1 and words[-1].end() < found[0].start():
        yield from (_answer(place, line, word[0], m) for word, m in zip(words, found))
        return
    for i, word in enumerate(words):
        if after:
            end = words[i + 1].start() if i + 1 < len(words) else len(line)
            about = [m for m in found if word.end() <= m.start() < end][:1]
        else:
            start = words[i - 1].end() if i else 0
            about = [m for m in found if start <= m.start() and m.end() <= word.start()][-1:]
        for m in about:
            if word[0] not in VERDICTS or TWO_SIDED not in line:
                yield _answer(place, line, word[0], m)


def _answer(place: str, line: str, word: str, found: re.Match) -> Answer:
    """The word on the difference seen from its positive side, so that a page that turns it round
    asks the same question."""
    value, low, high = (float(x) for x in found.groups())
    said = WORDS[word]
    if word in VERDICTS:
        if _claimed(line) < 0:
            said = LOWER if said == HIGHER else HIGHER
    elif said == LOWER and value > 0:  # "lower by 3.0": the size, not the difference
        value, low, high = -value, -high, -low
    digits = len(found[1].partition(".")[2])
    if value < 0:
        value, low, high = -value, -high, -low
        said = {HIGHER: LOWER, LOWER: HIGHER, OPEN: OPEN}[said]
    question = f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    return Answer(place, question.replace("-0.0,", "0.0,"), said, line)


def _claimed(line: str) -> int:
    """The side of zero that a line claims: of its printed gap, or of what it calls less."""
    gap = CLAIMED.search(line)
    less = re.search(r"is smaller than|is [\d.]+ points below", line)
    return -1 if (gap and gap[0].startswith("-")) or less else 1


# ---- lists of defences -----------------------------------------------------------------------

LISTS = {
    "higher against": HIGHER,
    "Under attack the method leaves more than": HIGHER,
    "Less accurate under attack than the method": HIGHER,
    "lower against": LOWER,
    "Under attack the method leaves less than": LOWER,
    "More accurate under attack than the method": LOWER,
    "inconclusive against": OPEN,
    "Under attack the method is not told apart from": OPEN,
    "Not told apart from the method": OPEN,
}
LIST = re.compile(rf"({'|'.join(LISTS)}):? (.*)")
HEADLINE = ("book/findings.md", "chapters/05")  # where a list is under the headline attack
COUNT = re.compile(
    r"Of \d+ others under the same attack, (\d+) leave more than the method, (\d+) less"
)


def of_lists(place: str, line: str) -> Iterator[Answer]:
    """What the method is beside each defence of a list, and how many a list or a sentence has."""
    plain = line.replace("*", "")
    if counted := COUNT.search(plain):
        for word, n in zip((LOWER, HIGHER), counted.groups()):
            yield Answer(place, f"how many beside which the method is {word}", n, plain)
    found = LIST.search(plain)
    if not found or not place.startswith(HEADLINE):
        return
    counted = re.match(r"(\d+) of \d+\.", found[2])
    listed = found[2].partition("At equal clean accuracy: ")[2] if counted else found[2]
    for item in filter(None, (item.strip(" .") for item in listed.split("; "))):
        yield Answer(place, f"the method beside {item}", LISTS[found[1]], plain)
    if counted and LISTS[found[1]] != OPEN:
        question = f"how many beside which the method is {LISTS[found[1]]}"
        yield Answer(place, question, counted[1], plain)


# ---- answers in sentences --------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Two `sides` that a sentence compares, as patterns; `unless` a word makes it another question.
    Without such a word it is about CIFAR-10, the small networks and the headline attack."""

    name: str
    sides: tuple[str, str]
    unless: str


METHOD = r"\b(?:the method|attention(?: mask)?|heterogeneous noise|two levels)\b"
ELSE = (
    r"l2|ℓ2|ℓ_2|ell_2|AutoAttack|BPDA|digit|SVHN|photograph|ImageNet|200|surrogate|clean accuracy"
    r" (?:is|differs)|without attack|denoiser that|told every|network|claims?\b|reports?\b|paper\b"
    r"|vote|feature|distance|world|\(\d\d images\)|\bif\b|whether|would|\?|calls|Standard"
    r"|uniform noise's curve"
)
EQUAL = (
    r"\b(?:equal clean accuracy|same clean accuracy|keeps? as (?:much|many)|at equal accuracy)\b"
)
QUESTIONS = (
    Question("the method against uniform noise of equal clean accuracy", (METHOD, EQUAL), ELSE),
    Question("attention against a random mask", (METHOD, r"\brandom masks?\b"), ELSE + "|" + EQUAL),
    Question("attention against the inverted mask", (METHOD, r"\binverted mask\b"), ELSE),
    Question(
        "the method against adversarial training",
        (METHOD, r"\badversarial training\b"),
        ELSE + "|" + EQUAL,
    ),
    Question("two levels against equal energy", (METHOD, r"\b(?:noise )?of equal energy\b"), ELSE),
    Question(
        "the method against uniform noise at its best level",
        (METHOD, r"\bat its best level\b"),
        ELSE,
    ),
)
MORE = r"\b(?:more|above|higher|better|beats?|outperforms?)\b"
LESS = r"\b(?:less|fewer|below|lower|worse)\b"
APART = r"(?:not|never|cannot be|nothing) (?:told apart|distinguished|established)|inconclusive"
NO = r"\b(?:no|not|never|neither|nor|without)\b[^.;]{0,20}$"


def of_sentence(place: str, line: str) -> Iterator[Answer]:
    """Answers of a sentence to `QUESTIONS`: which side it puts higher, or that they are open."""
    if not re.match(r"README|book/(?!claims/)|chapters/(05|08|11|12)", place):
        return
    plain = line.replace("*", "")
    for q in QUESTIONS:
        sides = [re.search(side, plain, re.IGNORECASE) for side in q.sides]
        if None in sides or re.search(q.unless, plain, re.IGNORECASE):
            continue
        if re.search(APART, plain):
            yield Answer(place, q.name, OPEN, plain)
            continue
        found = [(m, way) for way, p in ((1, MORE), (-1, LESS)) for m in re.finditer(p, plain)]
        if len(found) != 1 or re.search(NO, plain[: found[0][0].start()]):
            continue
        # the side that is spoken of comes first
        first = 1 if sides[0].start() < sides[1].start() else -1
        way = found[0][1] * (first if q.sides[1] != EQUAL else _subject(plain))
        yield Answer(place, q.name, HIGHER if way > 0 else LOWER, plain)


def _subject(plain: str) -> int:
    """1 if the last subject before the word of comparison is the method, -1 if it is noise."""
    word = re.search(f"{MORE}|{LESS}", plain)
    before = plain[: word.start()].lower()
    return 1 if before.rfind("method") > before.rfind("noise") else -1


# ---- contradictions --------------------------------------------------------------------------


def answers(places: Iterable[tuple[str, str]]) -> Iterator[Answer]:
    """All answers of `texts`."""
    for place, text in places:
        for line in _claim(text) if place.startswith("book/claims/") else lines(text):
            yield from of_intervals(place, line)
            if not line.startswith("|"):
                yield from of_lists(place, line)
                yield from of_sentence(place, line)


def _claim(page: str) -> list[str]:
    """The page of a claim as one line: its verdict, what it says, and what is measured."""
    verdict, said, here = (
        re.search(p, page, re.MULTILINE) for p in (r"^\*\*.*", r"^> .*", r"^\*\*Here:.*")
    )
    return [f"{verdict[0]} {said[0]} {here[0]}"] if verdict and said and here else []


def contradictions(places: Iterable[tuple[str, str]]) -> dict[str, list[Answer]]:
    """The questions that are answered in more than one way, with one answer for each way and place
    that gives it."""
    found: dict[str, dict[tuple[str, str], Answer]] = {}
    for a in answers(places):
        found.setdefault(a.question, {}).setdefault((a.word, a.place), a)
    return {
        question: [*said.values()]
        for question, said in found.items()
        if len({word for word, _ in said}) > 1
    }
