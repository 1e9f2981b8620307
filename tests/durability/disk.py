"""What may lie on a disk after a power cut, given what was done to it: recorded operations in, states out.

The rules are those that POSIX gives, tighter than those of any one file system:

- What a file holds is durable once the file was synced, which of its names is durable once the folder was. Neither
  brings the other about.
- Bytes that were written and not synced are there or not, in units of a sector, in any order. Where a file has grown
  and its bytes are not there, zeros are, or what the disk held before.
- Names that were changed in a folder and not synced have come as far as some change, and not further. A rename between
  two folders is in both or in none, and where it is not, nothing behind it is.
- Sizes change in order; what was written behind a cut that never came to the disk is not there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath

from durability.recording import Event

__all__ = ["SECTOR", "Disk", "Tree"]

SECTOR = 512  # bytes: the least that a disk writes whole

Tree = dict[str, bytes | None]  # path -> content, None for a folder


@dataclass(eq=False)
class Node:
    """A file or a folder, whatever its names are."""

    folder: bool
    data: bytearray = field(default_factory=bytearray)  # as a process sees it
    durable: bytes = b""  # when it was last synced
    since: list[Event] = field(default_factory=list)  # writes and truncations since
    names: dict[str, Node] = field(default_factory=dict)  # of a folder, as a process sees them
    synced: dict[str, Node] = field(default_factory=dict)  # of a folder, as they are durable for sure


Change = list[tuple[Node, str, Node | None]]  # folder, name, what it names from then on: all at once


class Disk:
    """A file system to which recorded operations are done one after the other."""

    def __init__(self) -> None:
        self.root = Node(folder=True)
        self._numbered: dict[int, Node] = {}
        self._pending: list[Change] = []  # changes of names that are not durable for sure
        self._last: Event | None = None

    def do(self, event: Event) -> None:
        """Carry out one operation."""
        self._last = event
        if event.kind in ("create", "mkdir"):
            node = Node(folder=event.kind == "mkdir")
            self._numbered[event.number] = node
            self._rename([(*self._place(event.path), node)])
        elif event.kind == "write":
            node = self._numbered[event.number]
            node.since.append(event)
            _write(node.data, event.position, event.data)
        elif event.kind == "truncate":
            node = self._numbered[event.number]
            node.since.append(event)
            _resize(node.data, event.position)
        elif event.kind == "sync":
            if (node := self._numbered.get(event.number, self.root)).folder:
                self._sync(node)
            else:
                node.durable, node.since = bytes(node.data), []
        elif event.kind == "remove":
            self._rename([(*self._place(event.path), None)])
        elif event.kind in ("rename", "exchange"):
            one, two = self._place(event.path), self._place(event.target)
            left = two[0].names[two[1]] if event.kind == "exchange" else None
            self._rename([(*one, left), (*two, one[0].names[one[1]])])

    def _place(self, path: str) -> tuple[Node, str]:
        *folders, name = PurePosixPath(path).parts
        node = self.root
        for folder in folders:
            node = node.names[folder]
        return node, name

    def _rename(self, change: Change) -> None:
        self._pending.append(change)
        _apply(change, durable=False)

    def _sync(self, folder: Node) -> None:
        """What was done to the names of a folder is durable, and what had to be done before that."""
        needed, kept = {id(folder)}, []
        for change in reversed(self._pending):
            touched = {id(place) for place, _, _ in change}
            if touched & needed:
                needed |= touched
            else:
                kept.append(change)
        for change in self._pending:
            if not any(change is other for other in kept):
                _apply(change, durable=True)
        self._pending = kept[::-1]

    def seen(self) -> Tree:
        """As a process sees it: what a kill leaves."""
        return dict(_tree(self.root, lambda node: bytes(node.data), lambda node: node.names))

    def synced(self) -> Tree:
        """Only what is durable for sure."""
        return dict(_tree(self.root, lambda node: node.durable, lambda node: node.synced))

    def names_first(self) -> Tree:
        """Names as they are seen, bytes only as they were synced."""
        return dict(_tree(self.root, lambda node: node.durable, lambda node: node.names))

    def sizes_first(self) -> Tree:
        """The same, but that files have their size: zeros in place of bytes that were not synced."""

        def zeros(node: Node) -> bytes:
            return node.durable[: len(node.data)].ljust(len(node.data), b"\0")

        return dict(_tree(self.root, zeros, lambda node: node.names))

    def bytes_first(self) -> Tree:
        """Bytes as they are seen, names only as they were synced."""
        return dict(_tree(self.root, lambda node: bytes(node.data), lambda node: node.synced))

    def cuts(self) -> Iterator[Tree]:
        """The last operation, if it was a write, cut at each sector: first the head of it, then the tail is there."""
        event = self._last
        if event is None or event.kind != "write":
            return
        node = self._numbered[event.number]
        whole, before = node.data, bytearray(node.durable)
        for other in node.since[:-1]:
            _redo(before, other)
        for middle in _borders(event):
            for keep in ((event.position, middle), (middle, event.position + len(event.data))):
                cut = before.copy()
                _write(cut, keep[0], event.data[keep[0] - event.position : keep[1] - event.position])
                node.data = cut
                yield self.seen()
        node.data = whole

    def drawn(self, rng: random.Random) -> Tree:
        """What a power cut leaves, drawn from all that the rules allow."""
        share = rng.choice((0.1, 0.5, 0.9))
        stopped: set[int] = set()
        names = {}
        for change in self._pending:
            touched = {id(folder) for folder, _, _ in change}
            if touched & stopped or rng.random() > share:
                stopped |= touched
                continue
            for folder, name, node in change:
                _set(names.setdefault(id(folder), dict(folder.synced)), name, node)
        contents: dict[int, bytes] = {}

        def content(node: Node) -> bytes:
            if id(node) not in contents:
                contents[id(node)] = _drawn(node, share, rng)
            return contents[id(node)]

        return dict(_tree(self.root, content, lambda node: names.get(id(node), node.synced)))


def _apply(change: Change, *, durable: bool) -> None:
    for folder, name, node in change:
        _set(folder.synced if durable else folder.names, name, node)


def _set(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _tree(node: Node, content, names, above: str = "") -> Iterator[tuple[str, bytes | None]]:  # type: ignore[no-untyped-def]
    for name, inner in sorted(names(node).items()):
        path = f"{above}{name}"
        if inner.folder:
            yield path, None
            yield from _tree(inner, content, names, f"{path}/")
        else:
            yield path, content(inner)


def _drawn(node: Node, share: float, rng: random.Random) -> bytes:
    """A file whose sectors are there with some probability each."""
    if not node.since:
        return node.durable
    junk = rng.random() < 0.25
    data, sized = bytearray(node.durable), rng.randint(0, len(node.since))
    size = len(_all(node.durable, node.since[:sized]))
    for number, event in enumerate(node.since):
        if event.kind == "truncate":
            if number >= sized:
                break
            _resize(data, event.position)
            continue
        end = event.position + len(event.data)
        if end > len(data):
            grown = end - len(data)
            data += rng.randbytes(grown) if junk else bytes(grown)
        for start, stop in _sectors(event):
            if rng.random() < share:
                data[start:stop] = event.data[start - event.position : stop - event.position]
    _resize(data, size)
    return bytes(data)


def _all(data: bytes, events: Iterable[Event]) -> bytearray:
    whole = bytearray(data)
    for event in events:
        _redo(whole, event)
    return whole


def _redo(data: bytearray, event: Event) -> None:
    if event.kind == "write":
        _write(data, event.position, event.data)
    else:
        _resize(data, event.position)


def _write(data: bytearray, position: int, new: bytes) -> None:
    if position > len(data):
        _resize(data, position)
    data[position : position + len(new)] = new


def _resize(data: bytearray, size: int) -> None:
    del data[size:]
    data += bytes(size - len(data))


def _borders(event: Event) -> Sequence[int]:
    """Of sectors inside a write."""
    first = event.position // SECTOR * SECTOR + SECTOR
    return range(first, event.position + len(event.data), SECTOR)


def _sectors(event: Event) -> Iterator[tuple[int, int]]:
    borders = [event.position, *_borders(event), event.position + len(event.data)]
    return pairwise(borders)
