"""Training files for changed texts: synonyms from WordNet, and words that a language model guesses anew."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simcse.data.readers import read_texts
from simcse.errors import DataError
from simcse.files import replaced_file

if TYPE_CHECKING:
    import torch

__all__ = ["write_guesses", "write_synonyms"]

KINDS = ("noun", "verb", "adj", "adv")
SHORTEST = 4  # letters; can is not a tin, nor I an iodine
SHARE = 0.15  # of the words that are guessed anew (paper, table 1)
BATCH = 256  # sentences


def write_synonyms(wordnet: Path, target: Path) -> Path:
    """Write a word and the synonyms of its most frequent sense a line.

    Args:
        wordnet: folder with index.noun, data.noun and so on.
        target: file.

    Raises:
        DataError: a file is missing.
    """
    table: dict[str, list[str]] = {}
    for kind in KINDS:
        for file in (f"index.{kind}", f"data.{kind}"):
            if not (wordnet / file).is_file():
                raise DataError(f"{wordnet / file}: no such file; expected WordNet's dict folder")
        senses = dict(read_senses(wordnet / f"data.{kind}"))
        for fields in entries(wordnet / f"index.{kind}"):
            word, first = fields[0], fields[-int(fields[2])]  # offsets stand last, the most frequent sense first
            others = [other for other in senses[first] if other.lower() != word and "_" not in other]
            if others and len(word) >= SHORTEST and "_" not in word:
                table.setdefault(word, others)
    with replaced_file(target) as new:
        new.write_text("".join("\t".join((word, *others)) + "\n" for word, others in table.items()), encoding="utf-8")
    return target


def entries(file: Path) -> Iterator[list[str]]:
    """The fields of each line; those of the licence begin with blanks."""
    with file.open(encoding="utf-8") as opened:
        for line in opened:
            if not line.startswith(" "):
                yield line.split()


def read_senses(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Offset and words of each sense; a word of an adjective may end in its position, such as (p)."""
    for fields in entries(file):
        count = int(fields[3], 16)
        yield fields[0], [word.partition("(")[0] for word in fields[4 : 4 + 2 * count : 2]]


def write_guesses(model: str, sentences: Path, rows: int, target: Path) -> Path:
    """Write a csv of sentences and the same with 15 % of their pieces hidden and guessed by a masked language model.

    Args:
        model: folder or hub id of one.
        sentences: file; its first `rows` are taken.
        rows: how many.
        target: file.
    """
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    guesser = AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32).eval()
    texts = list(itertools.islice(read_texts(sentences), rows))
    generator = torch.Generator().manual_seed(0)
    with replaced_file(target) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["anchor", "positive"])
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            ids = guess_anew(guesser, tokenizer, part, generator)
            writer.writerows(zip(part, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True))
    return target


def guess_anew(guesser: torch.nn.Module, tokenizer: Any, texts: list[str], generator: torch.Generator) -> torch.Tensor:
    """(B, L) ids with the likeliest pieces where they were hidden."""
    import torch

    batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    special = torch.isin(batch.input_ids, torch.tensor(tokenizer.all_special_ids))
    hidden = (torch.rand(batch.input_ids.shape, generator=generator) < SHARE) & ~special  # (B, L)
    seen = batch.input_ids.masked_fill(hidden, tokenizer.mask_token_id)
    with torch.inference_mode():
        guessed = guesser(input_ids=seen, attention_mask=batch.attention_mask).logits.argmax(-1)  # (B, L)
    return torch.where(hidden, guessed, batch.input_ids)
