"""Evidence: experiments, their records, and what follows from them.

Names are imported when they are first used: records can be read and written, and experiments
listed, without loading PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hetpure_lab.common.paths import RESULTS

if TYPE_CHECKING:
    from hetpure_lab.evidence.backlog import QUEUE, outstanding, queue, queued  # noqa: F401
    from hetpure_lab.evidence.engine import Calls, evaluate, run, score, shard  # noqa: F401
    from hetpure_lab.evidence.experiment import Experiment  # noqa: F401
    from hetpure_lab.evidence.outcomes import COLUMNS, RULES, Outcomes, column_record  # noqa: F401
    from hetpure_lab.evidence.pixels import adversarial_images, unpack  # noqa: F401
    from hetpure_lab.evidence.records import append, provenance, read  # noqa: F401
    from hetpure_lab.evidence.select import current, files, over_seeds, summary  # noqa: F401

_WHERE = {
    "backlog": ("QUEUE", "outstanding", "queue", "queued"),
    "engine": ("Calls", "evaluate", "run", "score", "shard"),
    "experiment": ("Experiment",),
    "outcomes": ("COLUMNS", "RULES", "Outcomes", "column_record"),
    "pixels": ("adversarial_images", "unpack"),
    "records": ("append", "provenance", "read"),
    "select": ("current", "files", "over_seeds", "summary"),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
__all__ = ["RESULTS", *_MODULE]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
