"""Each JSON file of a checkpoint replaced, each of its entries changed: the same vectors, or one line that says why.

The short form reads a sample; SIMCSE_SOAK=1 reads all, some thousands.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny import build_encoder

from simcse import SentenceEncoder
from simcse.encoder.projection import Projection
from simcse.errors import SimCSEError

SOAK = os.environ.get("SIMCSE_SOAK") == "1"
SAMPLE = 30  # of each kind of folder
TEXTS = ["the dog runs in the park", "two people", ""]
MISSING = "missing"
VALUES = [
    None,
    [],
    {},
    "",
    "x",
    0,
    1,
    -1,
    3,
    1.5,
    True,
    False,
    10**6,
    10**9,
    -(10**30),
    [1],
    [None],
    {"x": None},
    MISSING,
]
WHOLE = [
    b"null", b"[]", b"1", b'"x"', b"{}", b"", b"[1]", b"{", b"true", b"\xff\xfe{}", b"[" * 50_000, b"9" * 5_000,
    b'{"model_type": "bert"}', b'{"a": NaN}', b'[{"type": "x.Transformer"}]', b'{"type": null, "model_type": 3}',
]  # fmt: skip
# what simcse.json is there to say: another value in range is another encoder
SETTINGS = {"truncate_dim", "max_length", "projection"}


@pytest.fixture(scope="module", params=["ours", "sentence-transformers", "plain"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    plain = build_encoder(root / "plain")
    if request.param == "plain":
        return plain
    encoder = load(plain)
    encoder.projection = Projection(encoder.width, 16)
    ours = encoder.save_pretrained(root / "ours")
    if request.param == "ours":
        return ours
    SentenceTransformer(str(ours), device="cpu").save(str(root / "theirs"), create_model_card=False)
    return root / "theirs"


def load(folder: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, pooling="mean", device="cpu", dtype="fp32")


def changes(folder: Path) -> Iterator[tuple[Path, str, bytes]]:
    """File, what is changed in it, and its new content."""
    for file in sorted(folder.rglob("*.json")):
        name = file.relative_to(folder)
        for content in WHOLE:
            yield name, f"is {content[:30]!r}", content
        content = json.loads(file.read_bytes())
        for holder in [content, *(content if isinstance(content, list) else [])]:
            if not isinstance(holder, dict):
                continue
            for key, before in list(holder.items()):
                for value in VALUES:
                    if value is MISSING:
                        del holder[key]
                    else:
                        holder[key] = value
                    yield name, f"{key}: {before!r:.20} -> {value!r}", json.dumps(content).encode()
                    holder[key] = before


def test_json_files_changed_in_every_way(folder: Path, tmp_path: Path) -> None:
    expected = load(folder).encode(TEXTS)
    every = list(changes(folder))
    chosen = every if SOAK else random.Random(folder.name).sample(every, SAMPLE)
    bad = []
    for name, what, content in chosen:
        copy = Path(shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True))
        (copy / name).write_bytes(content)
        try:
            vectors = load(copy).encode(TEXTS)
        except SimCSEError as error:
            if "\n" in str(error):
                bad.append(f"{name} {what}: several lines: {error}")
        except BaseException as error:
            bad.append(f"{name} {what}: {type(error).__name__}: {error}")
        else:
            ours = (folder / "simcse.json").exists()
            said = str(name) == "simcse.json" and what.split(": ")[0] in SETTINGS
            if ours and not said and not np.array_equal(vectors, expected):
                bad.append(f"{name} {what}: other vectors, without a word")
    assert not bad, "\n".join([f"{len(bad)} of {len(chosen)}", *bad])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # kilobytes: none of them took all memory
