"""Settings as text and back: ``hetpure:tau=0.5,U=3`` is a class and all but its defaults.

A class of settings is a dataclass. Its fields may be float (also a fraction, ``8/255``), int, bool
(``1``, ``true``, ``yes`` and their opposites), str, a `Literal`, a tuple of these (``30+50``), and
any of them or None (``none``). It may come from a module or a notebook's cell, with or without
postponed annotations.
"""

from __future__ import annotations

import builtins
import inspect
import math
import re
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def parse(text: str, known: Mapping[str, type | None]) -> tuple[str, Any]:
    """``slug`` or ``slug:name=value,...`` to the slug and an object of its class; unnamed settings
    keep their defaults.

    Raises `ValueError`, in one sentence, for an unknown slug or setting, or a value of another
    type.
    """
    slug, _, rest = text.partition(":")
    if slug not in known:
        raise ValueError(f"unknown {slug!r}; known: {', '.join(known)}")
    kind = known[slug]
    # what nobody can change may be one object
    shared = kind is None or kind.__dataclass_params__.frozen
    return slug, (_built if shared else _built.__wrapped__)(slug, rest, kind)


@lru_cache(maxsize=2**12)
def _built(slug: str, rest: str, kind: type | None) -> Any:
    """The object with the settings in `rest`, or None where the slug has no class."""
    given = _pairs(slug, rest)
    names = _settings(kind)
    if unknown := set(given) - set(names):
        has = ", ".join(names) or "none"
        raise ValueError(f"{slug} has no setting {', '.join(sorted(unknown))}; it has: {has}")
    if kind is None:
        return None
    if missing := [n for n, f in names.items() if n not in given and _default(f) is MISSING]:
        raise ValueError(f"{slug} needs a value of {', '.join(missing)}")
    return kind(**{name: _value(name, text, _type(kind, name)) for name, text in given.items()})


def write(settings: Mapping[str, Any], known: Mapping[str, type | None]) -> str:
    """The inverse of `parse`, for settings with their `name`: the slug and all settings that differ
    from the defaults; `t` always.
    """
    defaults = _defaults(known[settings["name"]])
    text = {k: _text(v) for k, v in settings.items() if k != "name"}
    changed = [f"{k}={v}" for k, v in text.items() if k == "t" or v != defaults[k]]
    return ":".join([settings["name"], ",".join(changed)]).rstrip(":")


@lru_cache(maxsize=256)
def _defaults(kind: type | None) -> dict[str, str]:
    """The text of every setting's default."""
    return {name: _text(_default(f)) for name, f in _settings(kind).items()}


def describe(settings: Any, known: Mapping[str, type | None]) -> str:
    """The spec of an object of one of the `known` classes (None where a slug has no class)."""
    wanted = None if settings is None else type(settings)
    slug = next((slug for slug, kind in known.items() if kind is wanted), None)
    if slug is None:
        raise ValueError(f"{settings!r} is of no known kind; known: {', '.join(known)}")
    return write({"name": slug} | (asdict(settings) if settings is not None else {}), known)


def normal(text: str, known: Mapping[str, type | None]) -> str:
    """A spec as records name it: only settings that differ from the defaults, in their order."""
    slug, settings = parse(text, known)
    return write({"name": slug} | (asdict(settings) if settings else {}), known)


def readable(text: str) -> str:
    """A spec with its radius as people write it: ``eps=2/255`` for 0.00784..., but ``eps=0.5``. It
    names the same settings.
    """

    def radius(match: re.Match[str]) -> str:
        levels = 255 * float(match[0])
        return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-5 * levels else match[0]

    return re.sub(r"(?<=\beps=)\d[\d.e-]*(?![\d/])", radius, text)


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise `ValueError` unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


# ---- a class of settings -------------------------------------------------------------------------


def _settings(kind: type | None) -> dict[str, Field[Any]]:
    return {} if kind is None else {f.name: f for f in fields(kind) if f.init}


def _default(setting: Field[Any]) -> Any:
    """The default, or `MISSING`."""
    made = setting.default_factory
    return setting.default if made is MISSING else made()


def _type(kind: type, name: str) -> Any:
    """The type of a field, resolved where the class that declares it was written."""
    for base in kind.__mro__:
        if (found := inspect.get_annotations(base).get(name)) is not None:
            if not isinstance(found, str):
                return found
            try:
                return eval(found, vars(sys.modules.get(base.__module__, builtins)), vars(base))
            except (NameError, AttributeError, TypeError) as error:
                where = f"{base.__name__}.{name}: {found}"
                raise ValueError(f"{where} is a type that is not known there: {error}") from error
    raise ValueError(f"{kind.__name__}.{name} has no type")


# ---- values --------------------------------------------------------------------------------------


def _pairs(slug: str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"settings are written name=value, not {pair!r}, in {slug}:{text}")
        if name in found:
            raise ValueError(f"{name} is set twice in {slug}:{text}")
        found[name] = value
    return found


def _text(value: object) -> str:
    """A setting as `_value` reads it; a tuple may have come back from JSON as a list."""
    return "+".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _value(name: str, text: str, kind: Any) -> Any:
    """The value that `text` writes. Raises `ValueError` with the values that would be right."""
    if kind in _SCALARS:
        convert, right = _SCALARS[kind]
        try:
            return convert(text)
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(f"{name} is {right}, not {text!r}") from error
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _tuple(name, text, args)
    if origin is Literal:
        known = {str(choice): choice for choice in args}
        check_choice(name, text, list(known))
        return known[text]
    if origin in (Union, types.UnionType):
        return _union(name, text, args)
    raise ValueError(f"{name} is of a type that text cannot give: {kind}")


def _tuple(name: str, text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = text.split("+") if text else []
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(parts)
    if len(kinds) != len(parts):
        raise ValueError(f"{name} has {len(kinds)} values joined by '+', not {text!r}")
    return tuple(_value(name, part, kind) for part, kind in zip(parts, kinds))


def _union(name: str, text: str, kinds: tuple[Any, ...]) -> Any:
    if type(None) in kinds and text.lower() == "none":
        return None
    said = []
    for kind in (k for k in kinds if k is not type(None)):
        try:
            return _value(name, text, kind)
        except ValueError as error:
            said.append(str(error))
    raise ValueError(said[0] + (" (or none)" if type(None) in kinds else ""))


def _number(text: str) -> float:
    value = float(Fraction(text.strip()))
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _truth(text: str) -> bool:
    if text.lower() not in YES + NO:
        raise ValueError(text)
    return text.lower() in YES


_SCALARS: dict[Any, tuple[Any, str]] = {
    float: (_number, "a number such as 0.5 or 8/255"),
    int: (int, "a whole number"),
    bool: (_truth, "a truth value: 1, true or yes, 0, false or no"),
    str: (str, "text"),
}
