"""The house: packages in one import order, no circle among modules, and no class asked for outside
its room.

Imports inside functions count, so that no circle hides there.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "hetpure_lab"
FLOORS = (
    ("hetpure_core",),
    ("common",),
    ("data", "networks"),
    ("defences",),
    ("attacks",),
    ("training", "evidence"),
    ("paper",),
    ("cost", "audit"),
    ("report",),
    ("cli", "public", "__main__", "hetpure_lab"),
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name; a package is its ``__init__``."""
    files = {"hetpure_core": ROOT / "hetpure_core.py"}
    for file in sorted(LAB.rglob("*.py")):
        name = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        files[name.removesuffix(".__init__")] = file
    return files


def room(module: str) -> str:
    """The package a module is in, or its own name at the top."""
    return module.split(".")[1] if module.startswith("hetpure_lab.") else module


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of this project that a module imports anywhere, also inside its functions.

    Imports for type checkers alone are left out: nothing runs them.
    """
    found: set[str] = set()
    tree = ast.parse(modules()[module].read_text())
    unseen = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in deeper if name in modules()}
            found |= known if known == deeper else known | {node.module}
    return frozenset(name for name in found if name in modules() and name != module)


def arrows() -> Iterator[tuple[str, str]]:
    return ((module, other) for module in modules() for other in imports(module))


def test_packages_import_downwards_only():
    wrong = [
        f"{module} imports {other}"
        for module, other in arrows()
        if room(module) != room(other) and FLOOR[room(other)] >= FLOOR[room(module)]
        if room(module) not in ("hetpure_lab", "__main__")
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    """A package's ``__init__`` counts for who imports the package itself, not for its own rooms."""
    plain = {m for m, file in modules().items() if file.name != "__init__.py"}
    above: dict[str, set[str]] = {m: {o for o in imports(m) if o in plain} for m in plain}
    while free := {m for m, others in above.items() if not others & above.keys()}:
        above = {m: others for m, others in above.items() if m not in free}
    assert not above


def test_the_house_has_at_most_sixteen_rooms_and_ten_floors():
    rooms = {room(module) for module in modules()} - {"hetpure_lab"}
    assert rooms <= FLOOR.keys() and len(rooms) <= 16 and len(FLOORS) <= 10


def test_the_printed_paper_needs_no_torch():
    code = (
        "import sys, hetpure_lab.paper.printed as p; print(len(p.TABLES), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["8", "False"]


# ---- asking for what is declared, not for classes ------------------------------------------------


def concrete() -> dict[str, str]:
    """Every class that a registry has, by name, and the room it is from."""
    from hetpure_lab.attacks import ATTACKS
    from hetpure_lab.defences import DEFENCES

    kinds = {kind for kind in [*DEFENCES.values(), *ATTACKS.values()] if kind is not None}
    found = {kind.__name__: room(kind.__module__) for kind in kinds}
    return found | dict.fromkeys(
        ("EfficientNetLite0", "WideResNet", "UNet", "PixelCNN"), "networks"
    )


@pytest.mark.parametrize("module", modules())
def test_nobody_asks_for_a_class_outside_its_room(module):
    """The Gaussian world of the audit has closed forms for the core's own two purifiers alone."""
    known, wrong = concrete(), []
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(node.args[1]) if isinstance(n, ast.Attribute)}
            wrong += [name for name in names & known.keys() if known[name] != room(module)]
    if module == "hetpure_lab.audit.world":
        wrong = [name for name in wrong if known[name] != "hetpure_core"]
    assert not wrong


KNOWN_PARTS = ("small", "paper", "independent", "cifar10", "svhn", "imagenet", "photographs")


@pytest.mark.parametrize("module", modules())
def test_nobody_knows_a_bench_by_a_part_of_its_name(module):
    """``"-small" in bench`` and the like; `benches.scale` says what a bench is."""
    if room(module) == "networks":
        return
    wrong = []
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
            text, of = node.left.value, ast.unparse(node.comparators[0])
            if isinstance(text, str) and isinstance(node.ops[0], ast.In | ast.NotIn):
                part = text.strip("-") in KNOWN_PARTS
                wrong += [ast.unparse(node)] if part and "bench" in of else []
    assert not wrong
