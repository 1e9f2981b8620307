"""Executions of a target: each from a seed and a number, until one is wrong, or time is up.

    PYTHONPATH=tests:. python tests/fuzzing/campaign.py TARGET --seed 1 --seconds 60 [--corpus FOLDER] [--guided]

A process of its own, so that C++ that crashes, a loop without end and too much memory are seen from outside. It prints
a line of JSON: executions, answers and findings. `--guided` chooses inputs by coverage of the package's branches; it
needs atheris (pip install atheris), which has wheels for Linux. A corpus is the inputs that gave a new kind of answer;
the next campaign begins with those of the last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzzing.mutate import wrapped
from fuzzing.targets import TARGETS, Target, check_line

from simcse.errors import SimCSEError

__all__ = ["MEMORY", "SECONDS_EACH", "Campaign", "memory_folder"]

SECONDS_EACH = 5  # of a core's time, for one input
MEMORY = 3 * 2**30  # bytes that a process may take beyond what it has at the start
VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9]+")
POOL = 200  # inputs kept of each file, as each gave an answer of its own kind
MOST_FINDINGS = 40  # distinct ones, before a campaign ends


class HangError(BaseException):
    """No Exception, so that no reader can take it for its own."""


def memory_folder() -> str | None:
    """Where files are fastest."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def ring(*_: Any) -> None:
    raise HangError(f"not done after {SECONDS_EACH} s")


class Campaign:
    """Inputs for one target, and what came of them.

    Args:
        name: of the target.
        seed: of all inputs.
        folder: an empty one to read from.
        corpus: where inputs are kept for the next campaign; None for nowhere.
    """

    def __init__(self, name: str, seed: int, folder: Path, corpus: Path | None = None) -> None:
        self.name, self.seed, self.folder, self.corpus = name, seed, folder, corpus
        self.target: Target = TARGETS[name]
        self.pool = {file: list(some) for file, some in self.target.files().items()}
        self.whole = {file: some[0] for file, some in {**self.target.beside(), **self.pool}.items()}
        self.rng = random.Random(f"{name} {seed}")
        self.executions, self.begin, self.pages = 0, time.process_time(), pages()
        self.answers: Counter[str] = Counter()
        self.findings: dict[str, tuple[str, bytes, str]] = {}  # by kind: file, content, what was said
        self.paths = {file: f"{folder}/{file}" for file in self.whole}
        for file in self.whole:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            self._put(file, self.whole[file])
        self.damaged = self.files[0]

    def _put(self, file: str, content: bytes) -> None:
        with open(self.paths[file], "wb", 0) as stream:  # noqa: PTH123  many thousand times a second
            stream.write(content)

    def warm(self) -> None:
        """Read every good sample, which imports what is needed, and the corpus."""
        with limits(2**40):
            for file, samples in self.target.files().items():
                for content in samples:
                    self.execute(file, content)
        if self.corpus:
            with limits():
                for file, samples in self.pool.items():
                    for path in sorted(self._kept(file).glob("*"))[:POOL]:
                        samples.append(path.read_bytes())
                        self.execute(file, samples[-1])
        self.executions, self.begin, self.pages = 0, time.process_time(), pages()

    def one(self) -> None:
        """Damage a file, read it, and keep what gave a new kind of answer."""
        file = self.rng.choice(self.files)
        samples = self.pool[file]
        content = wrapped(self.rng, file, self.rng.choice(samples), self.rng.choice(samples))
        if self.execute(file, content) and len(samples) < POOL and len(content) < 20_000:
            samples.append(content)
            if self.corpus:
                path = self._kept(file) / hashlib.sha256(content).hexdigest()[:16]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def _kept(self, file: str) -> Path:
        assert self.corpus
        return self.corpus / self.name / file.replace("/", "-")

    @property
    def files(self) -> list[str]:
        return [*self.pool]

    def execute(self, file: str, content: bytes) -> bool:
        """Read it in each way; whether one gave an answer of a new kind."""
        if file != self.damaged:
            self._put(self.damaged, self.whole[self.damaged])
            self.damaged = file
        self._put(file, content)
        new = False
        for read in self.target.reads:
            self.executions += 1
            try:
                kind = self._answer(read, file)
            except (Exception, HangError) as error:
                kind = self._found(file, content, error)
            self.answers[kind] += 1
            new |= self.answers[kind] == 1
        return new

    def _answer(self, read: Callable[[Path, str], object], file: str) -> str:
        signal.setitimer(signal.ITIMER_PROF, SECONDS_EACH)
        try:
            read(self.folder, file)
        except (SimCSEError, *self.target.refusals) as error:
            said = str(error)
            if isinstance(error, SimCSEError):
                check_line(error)
            if not isinstance(error, self.target.refusals):
                named = self.paths[file] if self.target.names else str(self.folder)
                assert named in said, f"does not name the file: {said[:300]}"
            return f"{type(error).__name__}: {words(said.replace(str(self.folder), ''))}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return "read"

    def _found(self, file: str, content: bytes, error: BaseException) -> str:
        trace = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in trace if "/simcse/" in frame.filename] or [*trace]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        kind = f"FINDING {type(error).__name__} at {place}"
        self.findings.setdefault(kind, (file, content, str(error)[:300]))
        return kind

    def report(self) -> dict[str, Any]:
        return {
            "target": self.name, "seed": self.seed, "executions": self.executions, "kinds": len(self.answers),
            "read": self.answers["read"], "grown": (pages() - self.pages) // 256,
            "cpu": round(time.process_time() - self.begin, 1),
            "findings": {kind: [file, said, content.hex()] for kind, (file, content, said) in self.findings.items()},
        }  # fmt: skip


def pages() -> int:
    """Of 4 KiB, that the process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def words(message: str) -> str:
    """What a message says beside names and values: the kind of the answer."""
    return VALUE.sub("#", message[:200])[:60]


@contextmanager
def limits(memory: int = MEMORY) -> Iterator[None]:
    """An alarm for each input, and a bound of memory."""
    before = signal.signal(signal.SIGPROF, ring)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, old[1]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, about headers and numbers
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
        signal.signal(signal.SIGPROF, before)


def guided(campaign: Campaign, seconds: float) -> None:
    """Let coverage choose; ends the process."""
    import atheris

    def mutator(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        at, content = (data[0], data[1:]) if data else (0, b"")
        file = campaign.files[at % len(campaign.files)]
        if not content or rng.random() < 0.1:
            at = rng.randrange(len(campaign.files))
            file = campaign.files[at]
            content = rng.choice(campaign.pool[file])
        return (bytes([at]) + wrapped(rng, file, content))[:size]

    def execute(data: bytes) -> None:
        if data:
            campaign.execute(campaign.files[data[0] % len(campaign.files)], data[1:])
        if time.monotonic() > end or len(campaign.findings) >= MOST_FINDINGS:
            finish(campaign)
            import os

            shutil.rmtree(campaign.folder, ignore_errors=True)
            os._exit(0)

    end = time.monotonic() + seconds
    options = [sys.argv[0], "-timeout=60", "-rss_limit_mb=8000", "-max_len=100000", f"-seed={campaign.seed + 1}"]
    atheris.Setup(options, execute, custom_mutator=mutator)
    atheris.Fuzz()


def finish(campaign: Campaign) -> None:
    print(json.dumps(campaign.report()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--guided", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory_folder()))
    print(f"inputs in {folder}", file=sys.stderr, flush=True)  # the last one stays there, if it ends the process
    campaign = Campaign(options.target, options.seed, folder, options.corpus)
    campaign.warm()
    with limits():
        if options.guided:
            guided(campaign, options.seconds)
        end = time.monotonic() + options.seconds
        while time.monotonic() < end and len(campaign.findings) < MOST_FINDINGS:
            campaign.one()
    finish(campaign)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
