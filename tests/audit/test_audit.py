"""The audit: every check can pass, fail, stay open and be missing, and says which records
decided.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import records_of
from torch import nn

from hetpure_core import Purified, linear_schedule
from hetpure_lab.audit import cases, checks, own
from hetpure_lab.audit.cases import ATTEMPTS, BARE, HEADLINE, Case
from hetpure_lab.audit.checks import CHECKS, Verdict
from hetpure_lab.audit.flags import Flag
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence import ablations, rescore
from hetpure_lab.networks.benches import Bench
from hetpure_lab.report import figures, plots

N = 64
EVERYTHING = frozenset({"purifier", "surrogate", "mask", "file"})
MIXED = [0.6, 0.2] * (N // 2)


def low(by: float = 0.2) -> list[float]:
    return [max(0.0, rate - by) for rate in MIXED]


def case(*cells: tuple, defence: str = "hetpure", live: tuple[Flag, ...] | None = None) -> Case:
    """From (attack, attacked rates, options): records of 64 images; clean and null rates are high
    if not given.
    """
    found, case = {}, Case("cifar10-small", defence, {}, live, EVERYTHING)
    for attack, attacked, *options in cells:
        options = options[0] if options else {}
        of, seed = options.get("defence", defence), options.get("seed", 0)
        clean, null = options.get("clean", [0.95] * N), options.get("null", [0.9] * N)
        K = 1 if of == "none" else 20
        found[case.cell(attack, of, seed)] = records_of(
            of, attack, attacked, clean, null, K=K, seed=seed
        )
    return Case(case.bench, case.defence, found, live, EVERYTHING)


def verdict(name: str, case: Case) -> Verdict:
    return checks.verdict(next(check for check in CHECKS if check.name == name), case)


def headline(**options) -> tuple:
    return HEADLINE, MIXED, options


def control(defence: str, by: float, clean: float = 0.95) -> tuple:
    """The headline attack on another defence, which leaves `by` less of every image."""
    return (
        HEADLINE,
        [max(0.0, rate - by) for rate in MIXED],
        {"defence": defence, "clean": [clean] * N},
    )


SWAPPED = MIXED[::-1]  # the same on average, so different image by image that no interval decides

RANDOM, ENERGY = "hetpure:mask_kind=random", "equal-energy"
STEERED = [spec for name, spec in ATTEMPTS.items() if name.startswith("mask: ")]
SPECIAL = ("acceptance", "known noise", "large radius")
OUTDONE = {
    check.name: ATTEMPTS[check.name]
    for check in CHECKS
    if check.name in ATTEMPTS and check.name not in SPECIAL
}
FLAGGED = {"exact gradient": "inexact-gradient", "fresh noise": "reused-noise"}
STEERS = [(attack, MIXED) for attack in STEERED]
LONE = {"seed": 1}, {"seed": 2}
JUMPY = [list(np.clip(np.array(MIXED) + shift, 0, 1)) for shift in (-0.2, 0.4)]

# For every check a case in which it passes and one in which it fails.
PLANTED: dict[str, tuple[Case, Case]] = {
    **{
        name: (case(headline(), (attack, MIXED)), case(headline(), (attack, low())))
        for name, attack in OUTDONE.items()
    },
    **{
        name: (case(live=()), case(live=(Flag(flag, "", "seen"),)))
        for name, flag in FLAGGED.items()
    },
    "undefended": (
        case((BARE, [0.0] * 100, {"defence": "none", "clean": [1.0] * 100, "null": [1.0] * 100})),
        case((BARE, [1.0, 0.0] * (N // 2), {"defence": "none"})),
    ),
    "null control": (case(headline()), case(headline(null=low()))),
    "mask attacks": (case(headline(), *STEERS), case(headline(), *STEERS[:2], (STEERED[2], low()))),
    "known noise": (
        case(headline(), (ATTEMPTS["known noise"], low())),
        case(headline(), (ATTEMPTS["known noise"], low(-0.2))),
    ),
    "radius": (
        case(headline(), ("pgd:eps=2/255", [0.9] * N), ("pgd:eps=4/255", [0.7] * N)),
        case(headline(), ("pgd:eps=2/255", [0.9] * N), ("pgd:eps=4/255", low())),
    ),
    "large radius": (
        case((ATTEMPTS["large radius"], [0.0] * N)),
        case((ATTEMPTS["large radius"], MIXED)),
    ),
    "acceptance": (
        case((ATTEMPTS["acceptance"], MIXED), (ATTEMPTS["AutoAttack"], MIXED)),
        case((ATTEMPTS["acceptance"], MIXED), (ATTEMPTS["AutoAttack"], low())),
    ),
    "votes": (case((HEADLINE, [1.0, 0.0] * (N // 2))), case((HEADLINE, [0.35] * N))),
    "flakiness": (case(headline(clean=[1.0] * N)), case((HEADLINE, [0.95] * N))),
    "seeds": (
        case(headline(), *((HEADLINE, MIXED, options) for options in LONE)),
        case(
            (HEADLINE, [0.4] * N),
            *((HEADLINE, [rate] * N, options) for rate, options in zip((0.0, 0.9), LONE)),
        ),
    ),
    "price": (
        case(headline(), (BARE, [0.0] * N, {"defence": "none", "clean": [1.0] * N})),
        case(headline(clean=[0.4] * N), (BARE, [0.0] * N, {"defence": "none", "clean": [1.0] * N})),
    ),
    "random mask": (
        case(headline(), control(RANDOM, 0.1)),
        case(headline(), control(RANDOM, -0.1)),
    ),
    "equal energy": (
        case(headline(), control(ENERGY, 0.1)),
        case(headline(), control(ENERGY, -0.1)),
    ),
    "equal accuracy": (
        case(headline(), control("uniform:t=0.05", -0.3, 1.0), control("uniform:t=0.1", 0.1, 0.9)),
        case(headline(), control("uniform:t=0.05", 0.3, 0.4), control("uniform:t=0.1", -0.1, 0.9)),
    ),
}
OPEN: dict[str, Case] = {
    "budget": case(headline(), (ATTEMPTS["budget"], SWAPPED)),
    "null control": case(headline(null=SWAPPED)),
    "undefended": case((BARE, [0.0] * 20, {"defence": "none"})),
    "votes": case((HEADLINE, [0.6, 0.4] * (N // 2))),
    "flakiness": case((HEADLINE, [1.0, 0.9] * (N // 2), {"clean": [1.0] * 40 + [0.9] * 24})),
    "price": case(
        headline(clean=[1.0, 0.6] * (N // 2)),
        (BARE, [0.0] * N, {"defence": "none", "clean": [1.0] * N}),
    ),
    "random mask": case(headline(), (HEADLINE, SWAPPED, {"defence": RANDOM})),
}
IN_RECORDS = ("records", "real images")


def spoilt(name: str) -> Case:
    """Records with a fault that `flags.examine` knows."""
    found = case(headline())
    (e,) = found.found.values()
    if name == "records":
        next(iter(e.records.values()))["code"] = {"x": "2"}
    else:
        e.config["attack"]["eps"] = 4 / 255  # shared by all records
    return found


def test_every_check_is_planted_here():
    assert {check.name for check in CHECKS} == set(PLANTED) | set(IN_RECORDS) | {"rescored"}
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("name", PLANTED)
def test_a_check_passes_and_fails_where_it_should(name):
    passing, failing = PLANTED[name]
    assert (verdict(name, passing).state, verdict(name, failing).state) == ("passed", "failed")


@pytest.mark.parametrize("name", OPEN)
def test_a_check_stays_open_where_no_interval_decides(name):
    assert verdict(name, OPEN[name]).state == "open"


@pytest.mark.parametrize("name", IN_RECORDS)
def test_faults_in_the_records_fail_their_check(name):
    assert verdict(name, case(headline())).state == "passed"
    assert verdict(name, spoilt(name)).state == "failed"


def test_what_came_of_scoring_again_decides_and_is_asked_for_where_it_was_not_done(monkeypatch):
    found = case(headline())
    (e,) = found.found.values()
    one, other = (rescore.digest(r) for r in list(e.records.values())[:2])
    outcomes = (
        ([(one, 0), (other, 0)], "passed"),
        ([(one, 0), (other, 1)], "failed"),
        ([("x", 1)], "not measured"),
        ([], "not measured"),
    )
    for notes, state in outcomes:
        monkeypatch.setattr(
            rescore,
            "notes",
            lambda notes=notes: [rescore.Note(record, "code", "by", k, 60) for record, k in notes],
        )
        assert verdict("rescored", found).state == state
    assert verdict("rescored", found).run == f"hetpure rescore results/{e.about}"


def test_without_records_nothing_is_claimed_and_every_line_says_how_to_measure_it():
    rows = checks.checklist(case())
    assert {v.state for _, v in rows} == {"not measured"}
    assert all(v.run.startswith("hetpure ") and not v.seen for _, v in rows)
    assert (
        checks.summary(rows)
        == f"Of {len(CHECKS)} checks: 0 passed, 0 failed, 0 open, {len(CHECKS)} not measured."
    )


def test_the_commands_name_exactly_what_is_missing():
    missing = verdict("mask attacks", case(headline(), *STEERS[:1])).run.splitlines()
    assert [line.split("--attack ")[1].split()[0] for line in missing] == STEERED[1:]
    rows = checks.checklist(case())
    assert (
        len(checks.commands(rows))
        == len(set(checks.commands(rows)))
        < sum(len(v.run.splitlines()) for _, v in rows)
    )


def test_commands_name_radii_as_people_do():
    line = verdict("radius", case(headline())).run.splitlines()[0]
    assert "--attack pgd:eps=2/255 " in line
    assert "pgd:norm=L2,eps=0.5" in case().command(case().cell("pgd:norm=L2,eps=0.5"))


def test_checks_that_make_no_sense_for_a_defence_are_left_out(tmp_path):
    names = lambda defence: {
        c.name for c, _ in checks.checklist(Case.of("cifar10-small", defence, tmp_path))
    }
    assert names("hetpure") == {check.name for check in CHECKS}
    assert names("uniform:t=0.1") == names("hetpure") - {
        "mask attacks",
        "random mask",
        "equal energy",
        "equal accuracy",
    }
    assert names("none") == {check.name for check in CHECKS if check.needs in ("", "file")}


def test_a_weaker_attack_that_breaks_a_single_image_is_seen():
    """On average the headline is far stronger, yet one image tells that it has not found
    everything.
    """
    attacked = [0.0] * (N - 1) + [1.0]
    stronger = verdict(
        "transfer", case((HEADLINE, attacked), ("transfer", [0.9] * (N - 1) + [0.0]))
    )
    assert (
        stronger.state == "failed"
        and "1 of 64 images" in stronger.seen
        and stronger.difference.value < -0.5
    )


def test_a_small_difference_is_tolerated_however_certain_it_is():
    certain = case((HEADLINE, [0.5] * N), (ATTEMPTS["budget"], [0.45] * N))
    assert (
        verdict("budget", certain).state == "passed"
        and verdict("budget", certain).difference.low > 0
    )


def test_few_images_pass_nothing_however_equal_they_look():
    same = {spec: [1.0, 0.0] * 4 for spec in (HEADLINE, ATTEMPTS["budget"])}
    few = case(
        *((spec, rates, {"clean": [1.0] * 8, "null": [1.0] * 8}) for spec, rates in same.items())
    )
    assert {verdict(name, few).state for name in ("budget", "votes")} == {"open"}
    assert verdict("budget", case(headline(), (ATTEMPTS["budget"], MIXED))).state == "passed"


def test_the_control_is_taken_from_the_grid_where_the_headline_has_none():
    found = case((ablations.ATTACK, MIXED), (ablations.ATTACK, low(), {"defence": RANDOM}))
    assert verdict("random mask", found).state == "passed"
    assert (
        verdict("random mask", case((ablations.ATTACK, MIXED))).run.count(f"--attack {HEADLINE} ")
        == 2
    )


def test_uniform_noise_of_the_nearest_clean_accuracy_is_chosen():
    passing, _ = PLANTED["equal accuracy"]
    assert checks.equal_accuracy(passing) == "uniform:t=0.1"


# ---- from the reported number to the audited one -------------------------------------------------


def test_the_ladder_scores_what_is_measured_on_shared_images_and_names_the_rest():
    released = [1.0, 0.6] * (N // 2)
    rungs = {
        rung.label: rung
        for rung in cases.waterfall(case((ATTEMPTS["surrogate"], released), headline()))
    }
    assert rungs["PGD on the surrogate, 20 votes"].accuracy.value == 1.0
    assert rungs["the same, one purification"].accuracy.value == pytest.approx(0.8)
    assert rungs["exact gradient"].accuracy.value == pytest.approx(0.4)
    assert (
        rungs["twice the budget"].accuracy is None
        and ATTEMPTS["budget"] in rungs["twice the budget"].run
    )
    assert all(rung.accuracy is None for rung in cases.waterfall(case()))


def test_the_sentence_about_the_fall_names_both_ends_or_what_is_missing():
    top = f"{ATTEMPTS['acceptance']},gradient=surrogate"
    whole = cases.fallen(cases.waterfall(case((top, [1.0] * N), headline())))
    assert "20 votes” reports 100.0" in whole and "leaves 40.0" in whole and f"n = {N}" in whole
    assert "AutoAttack on the surrogate" in cases.fallen(cases.waterfall(case(headline())))
    bare = Case("cifar10-small", "none", {}, has=frozenset())
    assert cases.waterfall(bare)[0].label == "exact gradient"


def test_the_worst_attack_per_image_is_chosen_and_scored_on_different_purifications():
    strong, weak = (
        case((HEADLINE, rates)).found.popitem()[1]
        for rates in ([0.0, 1.0] * (N // 2), [1.0, 0.0] * (N // 2))
    )
    assert cases.worst([strong, weak], list(strong.records)).max() == 0
    rng = np.random.default_rng(0)
    for e in (strong, weak):  # two attacks equal to coins: choosing must not look like strength
        for record in e.records.values():
            record["adversarial"]["labels"] = rng.choice([3, 5], 20).tolist()
    assert cases.worst([strong, weak], list(strong.records)).mean() == pytest.approx(0.5, abs=0.05)


def test_frozen_noise_other_radii_and_other_seeds_are_not_among_the_worst_of_all():
    found = case(
        headline(),
        (ATTEMPTS["known noise"], MIXED),
        ("pgd:eps=4/255", MIXED),
        (HEADLINE, MIXED, {"seed": 1}),
        (ATTEMPTS["BPDA"], MIXED),
    )
    assert cases.waterfall(found)[-1].label == "worst of 2 attacks per image"


def test_the_pictures_show_every_line_and_mark_what_is_missing():
    figure, axes = plots.plt.subplots(1, 2)
    a = Accuracy(0.4, 0.3, 0.5, 40)
    figures.ladder(axes[0], {"one": a, "two": None})
    figures.forest(
        axes[1], {"x": ("failed", a), "y": ("open", Accuracy(0.0, -0.2, 0.2, 40))}, checks.TOLERANCE
    )
    assert [text.get_text() for text in axes[0].texts] == ["40.0", "not measured"]
    assert [label.get_text() for label in axes[1].get_yticklabels()] == ["x", "y"] and axes[
        1
    ].get_xlim()[1] > 50
    plots.plt.close(figure)


# ---- your own defence ----------------------------------------------------------------------------


class Blur(nn.Module):
    """A smooth random purifier with a network inside."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return (x + 0.1 * torch.tanh(self.mix(x)) + 0.05 * torch.randn_like(x)).clamp(0, 1)


def coarse(x):
    """A purifier whose gradient is zero everywhere."""
    return ((x + 0.02 * torch.randn_like(x)) * 8).round() / 8


def bench(classifier) -> Bench:
    classes = tuple("abcde")
    return Bench(
        "tiny",
        "none",
        classes,
        classifier.float(),
        nn.Identity(),
        None,
        linear_schedule(),
        {},
        torch.device("cpu"),
    )


def states(found: Case) -> dict[str, str]:
    return {check.name: v.state for check, v in checks.checklist(found)}


def test_a_sound_purifier_of_your_own_passes_the_live_checks_and_a_rounding_one_fails(
    classifier, little
):
    torch.manual_seed(0)
    sound, masked = (
        states(own.own(f, bench(classifier), little[torch.arange(2)], iterations=3, K=3))
        for f in (Blur(), coarse)
    )
    assert (sound["exact gradient"], sound["fresh noise"]) == ("passed", "passed")
    assert (masked["exact gradient"], masked["records"]) == ("failed", "failed")
    assert sound["averaging"] == "not measured" and "surrogate" not in sound


def test_noise_of_your_own_purifier_is_replayed_per_image(classifier, little):
    defence = Purified(classifier.float(), own.Called(Blur()), own.OneCall(), checkpointing=False)
    x, ids = little.floats, little.ids
    together = defence(x, ids, [0] * len(x))
    assert torch.equal(together, defence(x, ids, [0] * len(x)))
    assert torch.allclose(together[3:4], defence(x[3:4], ids[3:4], [0]), atol=1e-6)
    assert not torch.allclose(together, defence(x, ids, [1] * len(x)), atol=1e-4)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_prints_the_checklist_of_committed_records(capsys):
    checks.main(["--defence", "uniform:t=0.1", "--records-only", "--json"])
    rows = json.loads(capsys.readouterr().out)
    expected = checks.checklist(Case.of("cifar10-small", "uniform:t=0.1"))
    assert [(row["check"], row["state"]) for row in rows] == [
        (c.name, v.state) for c, v in expected
    ]
    assert all(row["seen"] or row["run"] for row in rows)
