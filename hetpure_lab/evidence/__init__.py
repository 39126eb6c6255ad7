"""Evidence: experiments, their records, and what follows from them.

Names are imported when they are first used: records can be read and written, and experiments
listed, without loading PyTorch.
"""

from importlib import import_module

from hetpure_lab.common.paths import RESULTS

_WHERE = {
    "backlog": ("QUEUE", "outstanding", "queue"),
    "engine": ("Calls", "evaluate", "run", "score", "shard"),
    "experiment": ("Experiment",),
    "outcomes": ("COLUMNS", "RULES", "Outcomes", "column_record"),
    "pixels": ("adversarial_images", "unpack"),
    "records": ("append", "provenance", "read"),
    "select": ("current", "files", "over_seeds", "summary"),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
__all__ = ["RESULTS", *_MODULE]


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
