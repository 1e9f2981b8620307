"""The power is cut, by force, behind a save: the old state or the new one is there, whole.

An ext4 file system in a file is ordered to stop at once without writing anything more (EXT4_IOC_SHUTDOWN), and mounted
anew. That needs root and a loop device; `tests/test_files.py` checks the order of syncs and renames anywhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import ROOT

from simcse import SentenceEncoder

SHUTDOWN, WITHOUT_LOG = 0x8004587D, 2
# seconds between save and cut. The journal writes renames each second: what was not synced by then is a name without
# bytes. At once: what takes the old state's place is not durable yet, and what is gone is.
WAITS = [0.0, 2.5] + ([0.5, 1.0, 1.5, 4.0, 7.0, 12.0] if os.environ.get("SIMCSE_SOAK") else [])
TEXTS = [f"the man number {i} plays the guitar" for i in range(500)]


class Disk:
    """A file system of its own, that can lose its power."""

    def __init__(self, image: Path, place: Path) -> None:
        self.image, self.place = image, place

    def mount(self) -> None:
        """Mount it; the journal is written each second."""
        options = "loop,commit=1"
        done = subprocess.run(
            ["mount", "-t", "ext4", "-o", options, self.image, self.place], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a disk to cut the power of needs the right to mount: {done.stderr.strip()}")

    def cut(self) -> None:
        """Lose whatever is not on the disk by now, and come back."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        finally:
            os.close(handle)
        subprocess.run(["umount", self.place], check=True)
        self.mount()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 can be made here: {error}")
    disk = Disk(image, place)
    disk.mount()
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def equal(encoder: SentenceEncoder, other: SentenceEncoder) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("wait", WAITS)
def test_the_old_state_or_the_new_one_is_whole(disk: Disk, tiny_bert: Path, wait: float) -> None:
    from simcse.files import replaced_file

    one = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    two = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    with torch.no_grad():
        for weight in two.parameters():
            weight.add_(1e-2)
    reports = [json.dumps({"scores": [number] * 5000}) for number in (1, 2)]

    def save(encoder: SentenceEncoder, report: str) -> None:
        encoder.save_pretrained(disk.place / "best")
        with replaced_file(disk.place / "report.json") as new:
            new.write_text(report)
        encoder.encode_to(disk.place / "vectors.npy", TEXTS)

    save(one, reports[0])
    os.sync()
    save(two, reports[1])
    time.sleep(wait)
    disk.cut()
    # the calls have returned, so it is the new state
    assert (disk.place / "report.json").read_text() == reports[1]
    assert equal(SentenceEncoder.from_pretrained(disk.place / "best", device="cpu", dtype="fp32"), two)
    np.testing.assert_array_equal(np.load(disk.place / "vectors.npy"), two.encode(TEXTS))
    save(one, reports[0])  # clears up what the cut left
    assert {path.name for path in disk.place.iterdir()} - {"lost+found"} == {"best", "report.json", "vectors.npy"}


WRITER = """
import sys
from pathlib import Path
from simcse.files import replaced_folder
number = 0
while True:
    number += 1
    with replaced_folder(sys.argv[1]) as new:
        for name in ("a", "b"):
            (new / name).write_text(f"{number}\\n" * 2000)
    print(number, flush=True)
"""


def test_a_cut_in_the_midst_of_saving(disk: Disk) -> None:
    """What was reported as saved is there, or what came after it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(12 if os.environ.get("SIMCSE_SOAK") else 3):
        command = [sys.executable, "-c", WRITER, str(disk.place / "best")]
        with subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            time.sleep(0.2 + 0.3 * float(np.random.default_rng().random()))
            handle = os.open(disk.place, os.O_RDONLY)
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
            os.close(handle)
            saved = [1, *map(int, process.stdout.read().split())][-1]  # then writing fails, and the process ends
        subprocess.run(["umount", disk.place], check=True)
        disk.mount()
        texts = {name: (disk.place / "best" / name).read_text() for name in ("a", "b")}
        assert texts["a"] == texts["b"]
        [number] = set(texts["a"].split())
        assert texts["a"] == f"{number}\n" * 2000
        assert int(number) >= saved
