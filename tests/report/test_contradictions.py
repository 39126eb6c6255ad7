"""No two places of the book answer one question differently, and a contradiction that is planted is
found: pages, parts, README, claims, chapters' sources and outputs."""

from __future__ import annotations

import re

import pytest

from hetpure_lab.report import contradictions


@pytest.fixture(scope="module")
def book():
    return list(contradictions.texts())


def test_no_question_is_answered_in_two_ways(book):
    found = contradictions.contradictions(book)
    said = [f"{a.word}: {a.place}: {a.quoted[:200]}" for q in found.values() for a in q]
    assert not found, "\n".join(said)


def test_questions_are_read_in_several_places_of_every_kind(book):
    places: dict[str, set[str]] = {}
    for a in contradictions.answers(book):
        places.setdefault(a.question, set()).add(a.place)
    twice = {place for where in places.values() if len(where) > 1 for place in where}
    assert sum(len(where) > 1 for where in places.values()) > 100
    for kind in (
        r"book/findings",
        r"book/scorecard",
        r"book/claims\.md",
        r"book/claims/",
        r"book/_include",
        r"chapters/05.* cell",
        r"chapters/08.* cell",
    ):
        assert [p for p in twice if re.match(kind, p)], kind


# ---- planted ---------------------------------------------------------------------------------


def changed(book, place: str, old: str, new: str):
    """The book with one change in one place."""
    hit = [i for i, (where, text) in enumerate(book) if where.startswith(place) and old in text]
    assert hit, (place, old)
    return [
        (where, text.replace(old, new, 1) if i == hit[0] else text)
        for i, (where, text) in enumerate(book)
    ]


def test_another_verdict_in_a_row_is_found(book):
    row = next(
        line
        for line in dict(book)["book/findings.md"].splitlines()
        if "| The method leaves more than uniform noise at the same clean accuracy" in line
    )
    verdict = re.search(r"\*\*(.*?)\*\*", row)[1]
    other = "inconclusive" if verdict != "inconclusive" else "verified"
    planted = changed(book, "book/findings.md", row, row.replace(verdict, other, 1))
    (answers,) = contradictions.contradictions(planted).values()
    assert {"book/findings.md", "book/claims/balance.md"} <= {a.place for a in answers}


def test_another_verdict_on_the_page_of_a_claim_is_found(book):
    page = dict(book)["book/claims/balance-l2.md"]
    verdict = page.splitlines()[2]
    planted = changed(book, "book/claims/balance-l2.md", verdict, "**verified**, scale: small")
    assert any(
        "book/claims/balance-l2.md" in {a.place for a in answers}
        for answers in contradictions.contradictions(planted).values()
    )


def test_another_word_in_an_output_of_a_chapter_is_found(book):
    word = "inconclusive</span></td>"
    planted = changed(book, "chapters/08_ablations.ipynb", word, "lower</span></td>")
    found = contradictions.contradictions(planted)
    assert any(a.place.startswith("chapters/08") for q in found.values() for a in q)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("README.md", "The attention mask leaves more under attack than a random mask."),
        (
            "chapters/08_ablations.ipynb",
            "Under attack a random mask leaves less than the attention mask.",
        ),
        ("book/index.md", "The method lies above plain noise that keeps as much."),
        (
            "book/_include/answer.md",
            "Plain noise that keeps as much and the method are not told apart.",
        ),
        (
            "book/_include/cards.md",
            "Of 52 others under the same attack, 1 leave more than the method, 5 less, and 46 are"
            " not told apart.",
        ),
        (
            "chapters/05_cifar10.ipynb",
            "The method's accuracy under attack: **lower** against no defence.",
        ),
        (
            "book/findings.md",
            "- **Less accurate under attack than the method**: 99 of 120.",
        ),
    ],
)
def test_a_sentence_that_says_otherwise_is_found_wherever_it_stands(book, place, said):
    at = next(i for i, (where, _) in enumerate(book) if where.startswith(place))
    planted = [*book[:at], (book[at][0], f"{book[at][1]}\n\n{said}\n"), *book[at + 1 :]]
    found = contradictions.contradictions(planted)
    assert any(a.place == book[at][0] for answers in found.values() for a in answers), said


def test_what_the_paper_says_and_what_is_asked_are_no_answers():
    quiet = "> Attention leaves more than a random mask.\n\n# The method above a random mask\n\n"
    quiet += (
        "Does the method leave more than a random mask? If the method were above a random mask."
    )
    places = [("README.md", quiet)]
    assert list(contradictions.answers(places)) == []


@pytest.mark.parametrize(
    "line",
    [
        "the accuracy is **lower** by 3.0 [1.0, 5.0]",
        "| a | 32 | -3.0 [-5.0, -1.0] | 0.01 | lower |",
        "| a | 32 | 3.0 [1.0, 5.0] | 0.01 | higher |",
        "| **verified** | small | x | PGD | -2.00 | -3.0 [-5.0, -1.0] |",
        "| **does not hold at small scale** | small | x | PGD | +2.00 | -3.0 [-5.0, -1.0] |",
    ],
)
def test_a_difference_that_is_turned_round_is_one_question(line):
    (answer,) = contradictions.of_intervals("x", line)
    assert (answer.question, answer.word) == ("3.0 [1.0, 5.0]", "higher")


def test_an_open_difference_is_open_from_either_side():
    row = "| a | **inconclusive** | small | -5.2 [-9.1, -1.8] | 64 |"
    (answer,) = contradictions.of_intervals("x", row)
    assert (answer.question, answer.word) == ("5.2 [1.8, 9.1]", "open")


def test_two_words_before_two_intervals_answer_in_turn():
    row = "| ✓ higher | – inconclusive | inverted | 13.4 [7.3, 20.3] | -7.2 [-15.9, 1.9] | 0.016 |"
    said = [(a.question, a.word) for a in contradictions.of_intervals("x", row)]
    assert [word for _, word in said] == ["higher", "open"] and said[0][0] != said[1][0]
