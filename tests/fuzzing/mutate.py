"""Bytes, damaged: bits, spans, lines, tokens, numbers, entries of JSON, members of archives.

Everything follows from the `random.Random` that is given, so that an input is known by its seed.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from copy import deepcopy
from typing import Any

__all__ = ["mutated", "wrapped"]

Damage = Callable[[random.Random, bytes], bytes]

LONGEST = 400_000  # bytes of an input
NUMBERS = [
    b"0", b"-1", b"1", b"-0.0", b"2", b"3.5", b"127", b"256", b"65536", b"2147483648", b"9223372036854775807",
    b"9223372036854775808", b"-9223372036854775809", b"1e308", b"1e999", b"-1e999", b"1e-999", b"NaN", b"Infinity",
    b"nan", b"inf", b"0x10", b"1_000", b"\xd9\xa3", b"\xc2\xb2", b"9" * 400, b"9" * 5000,
]  # fmt: skip
TOKENS = [
    b'"', b'""', b"'", b"\r", b"\n", b"\n\n", b"\r\n", b"\t", b",", b";", b":", b"\\", b"/", b" ", b"\0", b"\x1a",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf0\x9f\x99\x82", b"\xe2\x80\xa8", b"\x85",
    b"{", b"}", b"[", b"]", b"{}", b"[]", b"null", b"true", b'"\\ud800"', b'"\\u0000"', b"..", b"../x", b"/etc/passwd",
    b"&a ", b"*a", b"!!python/none", b"- ", b"? ", b"---\n", b"%", b"\x93NUMPY", b"PAR1", b"PK\x03\x04", b"\x1f\x8b",
    b"nan", b"x" * 300,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 16, 1.5, -0.0, 2**31, 2**63, -(2**63) - 1, 10**30, 1e308, float("nan"),
    float("inf"), "", " ", "x", "a\nb", "\0", "\ud800", "\u2028", "..", "../x", "/etc/passwd", ".", "a/b", "x" * 300,
    [], {}, [None], [[]], [0], [1.5, "x"], {"x": None}, {"": []}, {"format": 3}, ["text"], {"text": "a"}, "1", "mean",
    "cls", "flow", "whitening", "float32", "bert", "Transformer", [2**40, 16], 10**9,
]  # fmt: skip
DEEP = [60, 400, 990, 3000, 50_000]


def _at(rng: random.Random, content: bytes) -> int:
    return rng.randrange(len(content) + 1)


def _span(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = _at(rng, content)
    return start, min(len(content), start + (1 << rng.randrange(9)))


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(1 << rng.randrange(4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, content: bytes) -> bytes:
    """Binary numbers of 1, 2, 4, 8 bytes."""
    kind = rng.choice("BHIQ")
    most = (1 << 8 * struct.calcsize(kind)) - 1
    value = rng.choice([0, 1, most, most >> 1, (most >> 1) + 1, most >> 2, rng.randint(0, most), 255, len(content)])
    new = struct.pack(rng.choice("<>") + kind, value & most)
    at = _at(rng, content)
    return content[:at] + new + content[at + len(new) :]


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = _at(rng, content)
    new = rng.choice(TOKENS) if rng.random() < 0.8 else rng.randbytes(rng.randint(1, 20))
    return content[:at] + new + content[at:]


def _replace(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + rng.choice(TOKENS) + content[end:]


def _delete(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def _copy(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    at = _at(rng, content)
    return content[:at] + content[start:end] * rng.choice([1, 1, 2, 30]) + content[at:]


def _cut(rng: random.Random, content: bytes) -> bytes:
    at = _at(rng, content)
    return content[:at] if rng.random() < 0.7 else content[at:]


def _number(rng: random.Random, content: bytes) -> bytes:
    found = list(re.finditer(rb"-?[0-9]+(?:\.[0-9]+)?", content[:20_000]))
    if not found:
        return _insert(rng, content)
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(NUMBERS) + content[match.end() :]


def _lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines[a], lines[b] = lines[b], lines[a]
        case 1:
            lines.insert(a, lines[b])
        case 2:
            del lines[a]
        case 3:
            lines[a] = b""
        case _:
            end = rng.choice([b"\r\n", b"\r", b"\n\n", b" \n"])
            return end.join(lines)
    return b"\n".join(lines)


def _fields(rng: random.Random, content: bytes) -> bytes:
    """A line with its fields changed: one fewer, one more, another."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    separator = b"\t" if b"\t" in lines[at] else b","
    fields = lines[at].split(separator)
    place = rng.randrange(len(fields))
    match rng.randrange(4):
        case 0:
            del fields[place]
        case 1:
            fields.insert(place, rng.choice(TOKENS))
        case 2:
            fields[place] = rng.choice([*NUMBERS, b"", b" "])
        case _:
            fields[place] = b'"' + fields[place] + b'"' * rng.randrange(3)
    lines[at] = separator.join(fields)
    return b"\n".join(lines)


def _encoded(rng: random.Random, content: bytes) -> bytes:
    return content.decode("utf-8", "replace").encode(rng.choice(["latin-1", "utf-16", "utf-8-sig", "utf-7"]), "replace")


def _deep(rng: random.Random, content: bytes) -> bytes:
    """Brackets within brackets, which parsers descend into."""
    depth = rng.choice(DEEP)
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b"- ", b""), (b"[", b"")])
    value = opening * depth + b"1" + closing * depth
    at = content.find(b": ", _at(rng, content)) + 2
    return content[:at] + value + content[at + rng.randrange(2) :]


def _json(rng: random.Random, content: bytes) -> bytes:
    """One or two entries of JSON changed: of the whole, or of a line."""
    try:
        value, lines, at = json.loads(content), [], 0
    except (ValueError, RecursionError):
        lines = content.split(b"\n")
        at = rng.randrange(len(lines))
        try:
            value = json.loads(lines[at])
        except (ValueError, RecursionError):
            return _fields(rng, content)
    for _ in range(rng.randint(1, 2)):
        value = _changed_value(rng, value)
    new = json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    if not lines:
        return new
    lines[at] = new
    return b"\n".join(lines)


def _changed_value(rng: random.Random, value: Any) -> Any:
    """`value` with something in it replaced, taken out, renamed or put in."""
    holder, key = None, None
    while isinstance(value_at := value if holder is None else holder[key], (dict, list)) and value_at:
        if holder is not None and rng.random() < 0.3:
            break
        holder, key = value_at, rng.choice([*value_at] if isinstance(value_at, dict) else range(len(value_at)))
    if holder is None:
        return deepcopy(rng.choice(VALUES))
    action = rng.random()
    if action < 0.6:
        holder[key] = deepcopy(rng.choice(VALUES))  # the next damage may change it
    elif action < 0.75:
        del holder[key]
    elif isinstance(holder, dict):
        new = rng.choice([key + "x", "", "\ud800", "a\nb", *holder])
        holder[new] = deepcopy(holder[key] if action < 0.9 else rng.choice(VALUES))
    else:
        holder.insert(key, deepcopy(rng.choice([*VALUES, *holder])))
    return value


DAMAGES: list[Damage] = [
    _flip, _flip, _overwrite, _overwrite, _insert, _insert, _replace, _delete, _copy, _cut, _number, _number, _lines,
    _fields, _fields, _json, _json, _json,
]  # fmt: skip
RARE: list[Damage] = [_deep, _encoded, lambda rng, content: rng.randbytes(len(content)), lambda rng, content: b""]


def mutated(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """`content` after one to four damages, sometimes with the rest of another sample behind its begin."""
    if other and rng.random() < 0.05:
        content = content[: _at(rng, content)] + other[_at(rng, other) :]
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4])):
        if not content:
            break
        content = rng.choice(RARE if rng.random() < 0.03 else DAMAGES)(rng, content)[:LONGEST]
    return content


def wrapped(rng: random.Random, name: str, content: bytes, other: bytes = b"") -> bytes:
    """As `mutated`; three times in four what lies in an archive is damaged, and packed as its kind wants it."""
    if rng.random() < 0.25:
        return mutated(rng, content, other)
    try:
        if name.endswith(".gz"):
            return gzip.compress(mutated(rng, gzip.decompress(content)), 1, mtime=0)
        if name.endswith(".npz"):
            return _zipped(rng, content)
        if name.endswith(".safetensors"):
            return _safetensors(rng, content)
    except (OSError, EOFError, zlib.error, ValueError, zipfile.BadZipFile, struct.error, RuntimeError):
        pass  # damaged already
    return mutated(rng, content, other)


def _zipped(rng: random.Random, content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if not members:
        return content
    name = rng.choice([*members])
    members[name] = mutated(rng, members[name])
    if rng.random() < 0.1:
        members[rng.choice(["x.npy", "vectors.npy", "vectors", "../x.npy"])] = members.pop(name)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return target.getvalue()


def _safetensors(rng: random.Random, content: bytes) -> bytes:
    """Its header is JSON behind 8 bytes of length."""
    length = struct.unpack("<Q", content[:8])[0]
    header = mutated(rng, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]
