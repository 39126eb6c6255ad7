"""Settings as text and back: ``hetpure:tau=0.5,U=3`` is a class and what differs from its defaults."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from fractions import Fraction


def parse(text: str, known: dict[str, type | None]):
    """``slug`` or ``slug:name=value,...`` to the slug and an object of its class; unnamed settings keep their defaults."""
    slug, _, rest = text.partition(":")
    if slug not in known:
        raise ValueError(f"unknown {slug!r}; known: {', '.join(known)}")
    kind, settings = known[slug], dict(pair.split("=", 1) for pair in rest.split(",") if pair)
    types = {f.name: f.type for f in fields(kind)} if kind else {}
    if unknown := set(settings) - set(types):
        raise ValueError(f"{slug} has no setting {', '.join(sorted(unknown))}; it has: {', '.join(types) or 'none'}")
    return slug, kind(**{k: _value(v, types[k]) for k, v in settings.items()}) if kind else None


def write(settings: dict, known: dict[str, type | None]) -> str:
    """The inverse of `parse`, for settings with their `name`: the slug and what differs from the defaults; `t` always."""
    kind = known[settings["name"]]
    defaults = {} if kind is None else asdict(kind())
    text = {k: _text(v) for k, v in settings.items() if k != "name"}
    changed = [f"{k}={v}" for k, v in text.items() if k == "t" or v != _text(defaults[k])]
    return ":".join([settings["name"], ",".join(changed)]).rstrip(":")


def describe(settings: object | None, known: dict[str, type | None]) -> str:
    """The spec of an object of one of the `known` classes (None where a slug has no class)."""
    slug = next((slug for slug, kind in known.items() if kind is (None if settings is None else type(settings))), None)
    if slug is None:
        raise ValueError(f"{settings!r} is of no known kind; known: {', '.join(known)}")
    return write({"name": slug} | (asdict(settings) if settings is not None else {}), known)


def normal(text: str, known: dict[str, type | None]) -> str:
    """A spec as records name it: only what differs from the defaults, in the order of the settings."""
    slug, settings = parse(text, known)
    return write({"name": slug} | (asdict(settings) if settings else {}), known)


def readable(text: str) -> str:
    """A spec with its radius as people write it: ``eps=2/255`` for 0.00784..., but ``eps=0.5``. It names the same settings."""

    def radius(match: re.Match) -> str:
        levels = 255 * float(match[0])
        return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-5 * levels else match[0]

    return re.sub(r"(?<=\beps=)\d[\d.e-]*(?![\d/])", radius, text)


def _text(value) -> str:
    """A setting as `_value` reads it; a tuple may have come back from JSON as a list."""
    return "+".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _value(text: str, kind: str):
    if kind == "float":
        return float(Fraction(text))
    if kind == "bool":
        return text.lower() in ("1", "true", "yes")
    if kind.startswith("tuple"):
        return tuple(int(v) for v in text.split("+"))
    return int(text) if kind == "int" else text


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise `ValueError` unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
