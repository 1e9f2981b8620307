"""What must hold of a folder after a power cut during each scenario: the old state or the new one, whole, writable.

Each function gets the folder, the mark before the cut and the one after it (the same where the cut came at a mark, so
that nothing but this state will do; None before the first and behind the last).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import numpy as np
from durability import scenarios

__all__ = ["FOLDERS", "NONE", "PROMISES", "SAVED", "Promise", "digest"]

Promise = Callable[[Path, str | None, str | None], None]

TEMPORARY = ".simcse-"
FOLDERS = ("models/best", "whitening")  # of checkpoint


def index(folder: Path, old: str | None, new: str | None) -> None:
    """Texts, ids, metadata and vectors are those of one state; rows can be added and are found."""
    from simcse import SearchIndex
    from simcse.search.local.files import MANIFEST

    place = folder / "new" / "index"
    if not (place / MANIFEST).is_file():
        assert old is None, "no index"
        SearchIndex.build(["anew"], scenarios.encode).save(place)
        return
    with closing(SearchIndex.load(place, scenarios.encode)) as opened:
        opened.verify()
        found = [[key, text, metadata] for key, text, metadata in opened.rows()]
        states = [json.loads(state) for state in (old, new) if state is not None]
        assert found in states, f"{len(found)} rows"
        keys, texts = [row[0] for row in found], [row[1] for row in found]
        np.testing.assert_allclose(opened.vectors(keys), scenarios.encode(texts), atol=1e-6)
        opened.add(["at last"], ids=["at last"])
        opened.verify()
        assert opened.search("at last", top_k=1)[0][0].id == "at last"
        assert opened.search(texts[-1], top_k=1)[0][0].text == texts[-1]
        kinds = sorted(path.name.split("-")[0] for path in place.iterdir() if not path.name.startswith("."))
        assert kinds in (["ann", "manifest.json", "store", "vectors"], ["manifest.json", "store", "vectors"]), kinds


def digest(folder: Path) -> str | None:
    """Of all names and bytes in a folder but what a killed writer left; None where it is missing."""
    if not folder.is_dir():
        return None
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if TEMPORARY not in name:
            total.update(f"{name}\0".encode() + (path.read_bytes() if path.is_file() else b"folder"))
    return total.hexdigest()


def checkpoint(folder: Path, old: str | None, new: str | None) -> None:
    """Each folder holds the files of one save; what was saved is there; another save works and clears up."""
    from simcse.files import replaced_folder

    for name in FOLDERS:
        states = {SAVED[mark][name] for mark in (old, new) if mark is not None}
        if old is None:
            states.add(None)
        assert digest(folder / name) in states, name
        with replaced_folder(folder / name) as beside:
            (beside / "config.json").write_text("{}")
        assert [path.name for path in (folder / name).iterdir()] == ["config.json"]
        assert not [path for path in (folder / name).parent.iterdir() if TEMPORARY in path.name]


def run(folder: Path, old: str | None, new: str | None) -> None:
    """The run goes on from a step at which it saved its state, with the log up to there; best/ and report are whole."""
    from simcse.training.run_dir import RunDir

    place = folder / "runs" / "one"
    report = place / "report.json"
    if report.exists() or (old or "").endswith("report"):
        assert json.loads(report.read_bytes())["steps"] == 17
    steps = {int(mark.split()[0]) for mark in (old, new) if mark is not None} | ({0} if old is None else set())
    if (place / "best").exists():
        number = json.loads((place / "best" / "config.json").read_bytes())["number"]
        assert (place / "best" / "model.safetensors").read_bytes() == bytes([number]) * 3000
        assert number >= max(min(steps), 5)
    opened = RunDir(place, scenarios.CONFIG, "auto")
    try:
        step = opened.load_state()["step"] if opened.start else 0
        assert step in steps, f"step {step}, expected one of {steps}"
        opened.open({"train": {"rows": 640, "fingerprint": "abc"}})
        logged = [json.loads(line)["step"] for line in (place / "log.jsonl").read_text().splitlines()]
        assert logged == list(range(1, step + 1)), f"log of step {step}: {logged}"
        opened.log({"step": step + 1, "loss": 0.1})
        opened.save_last(lambda new: None, {"step": step + 1})
    finally:
        opened.close()
    assert not [path for path in place.iterdir() if TEMPORARY in path.name]
    again = RunDir(place, scenarios.CONFIG, "auto")
    assert again.load_state()["step"] == step + 1
    again.close()


def vectors(folder: Path, old: str | None, new: str | None) -> None:
    """What is there is whole; the same call goes on and ends with the same file as one that was never stopped."""
    from simcse.encoder.bulk import npy

    whole = scenarios.encode(scenarios.TEXTS)
    for name in ("v.npy", "v.npz"):
        file = folder / "deep" / name
        if name in (old or "").split() or file.exists():
            loaded = np.load(file)
            np.testing.assert_array_equal(loaded if name == "v.npy" else loaded["vectors"], whole)
        with patch.object(npy, "TEXTS_PER_CHUNK", 8):
            npy.encode_to(file, scenarios.TEXTS, scenarios.encode, made_by="e")
        loaded = np.load(file)
        np.testing.assert_array_equal(loaded if name == "v.npy" else loaded["vectors"], whole)
    assert sorted(path.name for path in (folder / "deep").iterdir()) == ["v.npy", "v.npz"]


def kernel(folder: Path, old: str | None, new: str | None) -> None:
    """No library is loaded but a whole one; where there is none, one can be put there."""
    from simcse.encoder.backends.native.compile import cache_folder, keep, kept

    with patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder)}):
        own = cache_folder()
        assert own == folder.resolve() / "simcse"
        found = kept(own, scenarios.STEM)
        for path in (found, keep(own, scenarios.STEM, scenarios.LIBRARY)):
            assert path is None or path.read_bytes() == scenarios.LIBRARY
        assert kept(own, scenarios.STEM) is not None


def aside(folder: Path, old: str | None, new: str | None) -> None:
    """The next writer of any target in the folder puts back what a cut between two renames left beside."""
    from simcse.files import sweep

    sweep(folder)
    states = {None if mark is None else bytes([int(mark)]) * 2000 for mark in (old, new)}
    best = folder / "best"
    found = {(best / name).read_bytes() for name in ("a", "b")} if best.exists() else {None}
    assert len(found) == 1
    assert found <= states


def naive(folder: Path, old: str | None, new: str | None) -> None:
    """Both files hold the same, of one of the two states."""
    states = {None if mark is None else bytes([int(mark)]) * 2000 for mark in (old, new)}
    found = {(folder / name).read_bytes() if (folder / name).exists() else None for name in ("a", "b")}
    assert len(found) == 1
    assert found <= states


def unsynced(folder: Path, old: str | None, new: str | None) -> None:
    """The file is of one of the two states."""
    states = {None if mark is None else bytes([int(mark)]) * 2000 for mark in (old, new)}
    assert ((folder / "a").read_bytes() if (folder / "a").exists() else None) in states


PROMISES: dict[str, Promise] = {
    function.__name__: function for function in (index, checkpoint, run, vectors, kernel, aside)
}
NONE = {"naive": naive, "unsynced": unsynced}  # what has to be found broken
SAVED: dict[str, dict[str, str | None]] = {}  # of checkpoint: mark -> folder -> its `digest`
