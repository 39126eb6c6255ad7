"""Evidence: experiments, their records, and what follows from them."""

from hetpure_lab.common.paths import RESULTS
from hetpure_lab.evidence.backlog import QUEUE, outstanding, queue
from hetpure_lab.evidence.engine import Calls, evaluate, run, score, shard
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.outcomes import COLUMNS, RULES, Outcomes, column_record
from hetpure_lab.evidence.pixels import adversarial_images, unpack
from hetpure_lab.evidence.records import append, provenance, read
from hetpure_lab.evidence.select import current, files, over_seeds, summary

__all__ = [
    "COLUMNS",
    "QUEUE",
    "RESULTS",
    "RULES",
    "Calls",
    "Experiment",
    "Outcomes",
    "adversarial_images",
    "append",
    "column_record",
    "current",
    "evaluate",
    "files",
    "outstanding",
    "over_seeds",
    "provenance",
    "queue",
    "read",
    "run",
    "score",
    "shard",
    "summary",
    "unpack",
]
