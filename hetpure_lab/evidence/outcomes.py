"""From the K outcomes of every image to accuracies: one purification, votes of S, and every-of-K,
in each of three columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from hetpure_core import vote
from hetpure_lab.common import stats

COLUMNS = ("adversarial", "clean", "null")
VOTES = (1, 10, 20)  # the S of the votes that are reported
RULES = ("single", "majority", "every", *(f"{how}_{S}" for how in ("hard", "soft") for S in VOTES))


def column_record(logits: Tensor) -> list[dict]:
    """What a record keeps of one column: from logits (K, n, classes), per image the K labels and
    the votes of the first S and of all.
    """
    labels, K = logits.argmax(-1), len(logits)
    votes = {
        how: {S: vote(logits[:S], how) for S in sorted({*VOTES, K}) if 1 < S <= K}
        for how in ("hard", "soft")
    }
    return [
        {"labels": labels[:, i].tolist()}
        | {how: {str(S): int(v[i]) for S, v in by_S.items()} for how, by_S in votes.items()}
        for i in range(logits.shape[1])
    ]


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of one experiment: `labels` (n,), per column the K predicted labels (n, K), and
    votes (n,) by (column, how, S).
    """

    labels: np.ndarray
    predicted: dict[str, np.ndarray]
    votes: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, records: dict[str, dict]) -> Outcomes:
        """From records of one experiment by image."""
        rows = list(records.values())
        predicted = {c: np.array([r[c]["labels"] for r in rows]) for c in COLUMNS}
        sizes = {*VOTES, len(rows[0]["clean"]["labels"])} - {1}
        keys = [(c, how, S) for c in COLUMNS for how in ("hard", "soft") for S in sizes]
        kept = {key: [_kept(r[key[0]], *key[1:]) for r in rows] for key in keys}
        votes = {key: np.array(labels) for key, labels in kept.items() if None not in labels}
        return cls(np.array([r["label"] for r in rows]), predicted, votes)

    @property
    def K(self) -> int:
        return next(iter(self.predicted.values())).shape[1]

    def correct(self, column: str) -> np.ndarray:
        """0/1 outcomes (n, K)."""
        return self.predicted[column] == self.labels[:, None]

    def single(self, column: str) -> stats.Accuracy:
        """Expected accuracy of one purification."""
        correct = self.correct(column)
        return (
            stats.wilson(correct[:, 0])
            if correct.shape[1] == 1
            else stats.mean_rate(correct.mean(1))
        )

    def majority(self, column: str) -> stats.Accuracy:
        """Hard vote of all K."""
        return stats.wilson(self.majority_correct(column))

    def majority_correct(self, column: str) -> np.ndarray:
        """0/1 outcomes (n,) of the hard vote of all K."""
        return self.vote(column, "hard", self.K) == self.labels

    def vote(self, column: str, how: str, S: int) -> np.ndarray | None:
        """The labels (n,) that the first S of the K purifications vote for (Alg 3), or None if the
        records do not know.

        Equal counts of a hard vote were decided by mean probability; without that knowledge the
        smaller label wins.
        """
        predicted = self.predicted[column]
        if S > self.K or S == 1:
            return predicted[:, 0] if S == 1 else None
        if (kept := self.votes.get((column, how, S))) is not None or how == "soft":
            return kept
        return np.stack(
            [np.bincount(row, minlength=1 + predicted.max()) for row in predicted[:, :S]]
        ).argmax(1)

    def every(self, column: str) -> stats.Accuracy:
        """All K right: what is left if any failure counts; often near 0, where only an exact
        interval can be relied on.
        """
        return stats.clopper_pearson(self.correct(column).all(1))

    def accuracy(self, column: str, rule: str) -> stats.Accuracy | None:
        """The accuracy of a column under one of `RULES`; None if the records do not contain it
        (fewer than S purifications).
        """
        if rule in ("single", "majority", "every"):
            return getattr(self, rule)(column)
        how, S = rule.split("_")
        voted = self.vote(column, how, int(S))
        return None if voted is None else stats.wilson(voted == self.labels)


def _kept(column: dict, how: str, S: int) -> int | None:
    """The stored vote of S; early records kept only the soft vote of all K."""
    if how == "soft" and isinstance(column["soft"], int):
        return column["soft"] if S == len(column["labels"]) else None
    return column.get(how, {}).get(str(S))
