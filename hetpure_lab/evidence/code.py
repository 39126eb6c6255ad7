"""Which sources decide an outcome, and their checksums as they were imported. Needs no torch.

An experiment depends on the core, the data readers, the networks, what attacks and defences share,
and on the modules of its own purifier and attack with what they import. A rival that is added in a
file of its own changes nothing of the others.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from hetpure_lab.common.paths import ROOT

PACKAGES = ("data", "networks", "defences", "attacks")
EVIDENCE = tuple(
    f"hetpure_lab/evidence/{name}.py" for name in ("experiment", "engine", "outcomes", "pixels")
)
# They name everything that there is, and decide nothing of what is used: that stands in the
# configuration, spelt out.
NAMING = ("registry.py", "__init__.py")
SHARED = (
    "hetpure_core.py",
    "hetpure_lab/data/sources.py",
    "hetpure_lab/networks/benches.py",
    "hetpure_lab/defences/interface.py",
    "hetpure_lab/defences/method.py",
    "hetpure_lab/attacks/threat.py",
    "hetpure_lab/attacks/gradients.py",
)


def _texts() -> dict[str, bytes]:
    """All sources that may decide an outcome, by their path from the checkout."""
    lab = ROOT / "hetpure_lab"
    paths = [
        ROOT / "hetpure_core.py",
        *(path for name in PACKAGES for path in sorted((lab / name).glob("*.py"))),
    ]
    paths += [ROOT / name for name in EVIDENCE]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths if path.exists()}


# Read when this module is imported, with the code they describe: files may be edited while a long
# run goes on.
TEXTS = _texts()
CODE = {name: hashlib.sha256(text).hexdigest()[:12] for name, text in TEXTS.items()}


def fingerprint(code: dict[str, str] | None = None) -> str:
    """One digest of checksums: of all sources that may decide an outcome, unless `code` says of
    which.
    """
    return hashlib.sha256(
        repr(sorted((CODE if code is None else code).items())).encode()
    ).hexdigest()[:12]


@cache
def _imports(source: str) -> tuple[str, ...]:
    """The deciding sources that `source` imports."""
    found = []
    for node in ast.walk(ast.parse(TEXTS[source])):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = (f"{name.replace('.', '/')}.py" for name in found)
    return tuple(
        dict.fromkeys(file for file in files if file in TEXTS and not file.endswith(NAMING))
    )


def of(classes: Iterable[type]) -> dict[str, str]:
    """Checksums of the sources that decide an outcome where objects of these `classes` purify and
    attack.

    A class from outside the lab, such as a plug-in's, counts with its file, by the name of its
    module.
    """
    left, used, foreign = [*SHARED, *EVIDENCE], set(), {}
    for kind in classes:
        source = f"{kind.__module__.replace('.', '/')}.py"
        if source in TEXTS:
            left.append(source)
        elif kind is not type(None):  # the bare classifier has no purifier
            foreign[kind.__module__] = _foreign(kind.__module__)
    while left:
        source = left.pop()
        if source in TEXTS and source not in used:
            used.add(source)
            left += () if source in EVIDENCE else _imports(source)
    return {name: CODE[name] for name in sorted(used)} | foreign


@cache
def _foreign(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else "unknown"
