"""Running text as training files: sentences, and pairs of neighbouring ones."""

from __future__ import annotations

import csv
import re
from itertools import pairwise
from pathlib import Path

from simcse.data.readers import read_texts
from simcse.files import replaced_file

__all__ = ["write_sentence_files"]

END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(])")
LEAST_WORDS = 4  # fewer are headings and leftovers of the cutting


def write_sentence_files(documents: Path, folder: Path) -> tuple[Path, Path]:
    """Cut each document into sentences, and write a sentence a line, and a csv of each with the next one.

    Returns:
        The two files; the first columns of both are the same sentences.
    """
    cut = [
        [sentence for sentence in END.split(" ".join(text.split())) if len(sentence.split()) >= LEAST_WORDS]
        for text in read_texts(documents)
    ]
    pairs = [pair for sentences in cut for pair in pairwise(sentences)]
    texts, neighbours = folder / "sentences.txt", folder / "next_sentences.csv"
    with replaced_file(texts) as new:
        new.write_text("".join(f"{anchor}\n" for anchor, _ in pairs), encoding="utf-8")
    with replaced_file(neighbours) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["anchor", "positive"])
        writer.writerows(pairs)
    return texts, neighbours
