"""The first page says what the records say, and nothing where there are none."""

from __future__ import annotations

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hetpure_lab.common.stats import mean_rate
from hetpure_lab.evidence import frontier
from hetpure_lab.evidence.frontier import Point
from hetpure_lab.report import landing

IMAGES = tuple(f"i{k}" for k in range(40))


def point(name: str, clean: float, attacked: float) -> Point:
    """A defence that is right on a share of the images, the same ones first."""
    right = lambda share: (np.arange(len(IMAGES)) < share * len(IMAGES)).astype(float)
    return Point(name, IMAGES, right(clean), right(attacked))


@pytest.fixture
def curve() -> tuple[Point, ...]:
    return point("uniform:t=0.1", 0.9, 0.1), point("uniform:t=0.2", 0.5, 0.5)


@pytest.mark.parametrize("attacked, word", [(0.6, "above"), (0.05, "below")])
def test_the_side_of_the_curve_decides_the_word(curve, attacked, word):
    said = landing._beside_noise(landing.Found(point("hetpure", 0.7, attacked), curve))
    points = float(re.search(r"\*\*([\d.]+) points", said)[1])
    assert word in said and points == pytest.approx(100 * abs(attacked - 0.3), abs=0.1)


def test_on_the_curve_nothing_is_told_apart(curve):
    assert "not told apart" in landing._beside_noise(landing.Found(curve[0], curve))


def test_beyond_the_curve_nothing_is_compared(curve):
    assert "cannot be compared" in landing._beside_noise(
        landing.Found(point("hetpure", 1.0, 0.1), curve)
    )


def test_the_numbers_are_those_of_the_records():
    found = landing.Found.of()
    said = landing.answer()
    left, d = mean_rate(found.method.attacked), frontier.distance(found.method, found.curve)
    assert (
        f"**{100 * left.value:.0f} %** left [{100 * left.low:.1f},\u00a0{100 * left.high:.1f}]"
        in said
    )
    assert f"{abs(100 * d.difference.value):.1f} points" in said


def test_the_readme_carries_the_same_sentences(tmp_path):
    assert landing.README.read_text().split(landing.ANSWER)[1].strip() == landing.answer().strip()
    copy = tmp_path / "README.md"
    copy.write_text(landing.README.read_text())
    landing.say_answer(tmp_path, copy)
    before, said, after = copy.read_text().split(landing.ANSWER)
    assert "Nothing is measured" in said and before + after in landing.README.read_text().replace(
        landing.ANSWER + landing.README.read_text().split(landing.ANSWER)[1] + landing.ANSWER, ""
    )


def test_without_records_the_page_says_so(tmp_path):
    assert "Nothing is measured" in landing.answer(tmp_path) and landing.scale(tmp_path) == ""
    said = landing.outcomes(tmp_path)
    assert all(o.sentence for o in said.values()) and "not measured" in said[8].sentence
    assert not any(said[number].title for number in (3, 4, 5, 6, 7, 8, 11, 12, 14, 15))


@pytest.mark.parametrize(
    "word, said",
    [
        ("higher", "A: b leaves more than c"),
        ("lower", "A: c leaves more than b"),
        ("inconclusive", "A: b and c are not told apart"),
        ("", ""),
    ],
)
def test_a_title_says_which_side_the_records_are_on(word, said):
    assert landing._titled("A", "b", "c", word) == said


def test_every_chapter_says_under_its_title_what_was_found():
    said = landing.outcomes()
    for number, path in ((n, path) for n, path, _ in landing._chapters() if n in said):
        cell = "".join(json.loads(path.read_text())["cells"][0]["source"])
        assert landing.with_outcome(cell, said[number]) == cell, f"{path.name}: hetpure pages"


def test_an_outcome_takes_the_place_of_the_older_one():
    once = landing.with_outcome("# Title\n\n**Goal.** This.\n", landing.Outcome("First."))
    assert once == "# Title\n\n**Found.** First.\n\n**Goal.** This.\n"
    again = landing.with_outcome(once, landing.Outcome("Second.", "Decided"))
    assert again == once.replace("First.", "Second.").replace("Title", "Decided")


def test_every_chapter_has_a_card_that_leads_to_it():
    links = re.findall(r"^:link: \.\./chapters/(.*)$", landing.cards(), re.MULTILINE)
    assert links == [path.stem for _, path, _ in landing._chapters()]


def test_the_picture_has_the_line_and_names_the_method(curve):
    figure = landing.picture(landing.Found(point("hetpure", 0.7, 0.2), curve))
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert "the method" in texts and "10.0 points" in texts
    plt.close(figure)
