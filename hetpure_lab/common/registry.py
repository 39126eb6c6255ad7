"""Registries: names and the things they stand for, open to plug-ins.

An entry is made beside its definition (`Registry.register`), by this package or by a plug-in
(`common.plugins`). Modules of plug-ins are imported when a registry is first read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Generic, TypeVar

from hetpure_lab.common import plugins

Entry = TypeVar("Entry")
Kind = TypeVar("Kind", bound=type)

_NAME = re.compile(r"[a-z0-9]+([-_.][a-z0-9]+)*")


class Unknown(ValueError, KeyError):
    """A name that a registry does not have; the message says which it has."""

    def __str__(self) -> str:
        return str(self.args[0])


class _Unions(Mapping[str, Entry]):
    """A mapping that joins with others as dictionaries do."""

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self}


class Registry(_Unions[Entry], MutableMapping[str, Entry], Generic[Entry]):
    """Entries of one kind, `what`, by name; names in `order` come first, the others as they came.

    A name is lower-case letters and digits, joined by ``-``, ``_`` or ``.``. `register` refuses a
    name that is taken by something else (`ValueError`); assignment replaces.
    """

    def __init__(
        self, what: str, entries: Mapping[str, Entry] | None = None, order: Sequence[str] = ()
    ) -> None:
        self.what, self._entries = what, dict(entries or {})
        self._place = {name: i for i, name in enumerate(order)}

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            plugins.load()
        if name not in self._entries:
            raise Unknown(f"unknown {self.what} {name!r}; known: {', '.join(self)}")
        return self._entries[name]

    def __setitem__(self, name: str, entry: Entry) -> None:
        if not _NAME.fullmatch(name):
            rule = "lower-case letters and digits, joined by '-', '_' or '.'"
            raise ValueError(f"the name of a {self.what} is {rule}, not {name!r}")
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        plugins.load()
        return iter(sorted(self._entries, key=lambda name: self._place.get(name, len(self._place))))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, name: str, entry: Entry) -> Entry:
        """A new entry; the same thing may be entered again, as when a notebook's cell is rerun."""
        there = self._entries.get(name)
        if name in self._entries and _origin(there) != _origin(entry):
            raise ValueError(f"the {self.what} {name!r} is taken by {_origin(there)}")
        self[name] = entry
        return entry

    def register(self, name: str) -> Callable[[Kind], Kind]:
        """A decorator that enters a class under `name`."""

        def enter(kind: Kind) -> Kind:
            self.add(name, kind)  # type: ignore[arg-type]
            return kind

        return enter


class Part(_Unions[Entry]):
    """The entries of a registry with a name that satisfies a condition."""

    def __init__(self, whole: Mapping[str, Entry], holds: Callable[[str], bool]) -> None:
        self._whole, self._holds = whole, holds

    def __getitem__(self, name: str) -> Entry:
        if name in self._whole and self._holds(name):
            return self._whole[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return filter(self._holds, self._whole)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _origin(entry: object) -> str:
    """Where an entry is from: module and name of a class or function, or its representation."""
    module = getattr(entry, "__module__", "")
    name = getattr(entry, "__qualname__", "")
    return f"{module}.{name}" if name else repr(entry)
