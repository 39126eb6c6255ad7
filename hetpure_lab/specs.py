"""Settings as text and back: ``hetpure:tau=0.5,U=3`` is a class and what differs from its defaults."""

from __future__ import annotations

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
