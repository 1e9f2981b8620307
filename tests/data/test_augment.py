"""Augmentations change what they say and nothing else, and are the same for any number of processes."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.data.augment import AUGMENTATIONS, build_augment, read_synonyms
from simcse.data.collate import Batches
from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError, DataError

TEXTS = st.lists(st.sampled_from(["a", "cat", "sits", "on", "the", "red", "mat"]), min_size=1, max_size=12).map(
    " ".join
)
TABLE = {"cat": ["feline", "kitty"], "red": ["scarlet"]}


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(word in rest for word in part)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.sampled_from([0.1, 0.3, 0.9]), st.integers(0, 99))
def test_each_keeps_its_promise(text: str, rate: float, seed: int) -> None:
    words, n = text.split(), len(text.split())
    gone = min(max(1, round(rate * n)), n - 1)
    cropped = build_augment("crop", rate=rate)(text, random(seed)).split()
    assert len(cropped) == n - gone
    assert f" {' '.join(cropped)} " in f" {text} "
    deleted = build_augment("delete", rate=rate)(text, random(seed)).split()
    assert len(deleted) == n - gone
    assert is_subsequence(deleted, words)
    one_less = build_augment("delete_one")(text, random(seed)).split()
    assert len(one_less) == max(1, n - 1)
    assert is_subsequence(one_less, words)
    masked = build_augment("mask", rate=rate, mask_token="[MASK]")(text, random(seed)).split()
    assert masked.count("[MASK]") == max(1, round(rate * n))
    assert all(new in (old, "[MASK]") for new, old in zip(masked, words, strict=True))
    replaced = build_augment("synonym", rate=rate, synonyms=TABLE)(text, random(seed)).split()
    changed = [(new, old) for new, old in zip(replaced, words, strict=True) if new != old]
    assert len(changed) == min(sum(word in TABLE for word in words), max(1, round(rate * n)))
    assert all(new in TABLE[old] for new, old in changed)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_the_same_source_of_randomness_gives_the_same_text(kind: str) -> None:
    augment = build_augment(kind, rate=0.3, mask_token="[MASK]", synonyms=TABLE)
    text = "the red cat sits on a red mat near the cat"
    assert augment(text, random(1)) == augment(text, random(1))
    assert len({augment(text, random(seed)) for seed in range(20)}) > 3
    assert augment("", random(0)) == ""


def test_a_synonym_takes_over_the_capital() -> None:
    assert build_augment("synonym", synonyms={"red": ["scarlet"]})("Red cat", random(0)) == "Scarlet cat"


def test_tables_of_synonyms(tmp_path: Path) -> None:
    table = tmp_path / "table.txt"
    table.write_text("Cat\tfeline\tkitty\nred\tscarlet\ncat\tpuss\n")
    assert read_synonyms(table) == {"cat": ["feline", "kitty", "puss"], "red": ["scarlet"]}
    table.write_text("cat\tfeline\nred\n")
    with pytest.raises(DataError, match=r"table\.txt:2: found 'red', expected a word and its synonyms"):
        read_synonyms(table)
    table.write_text("")
    with pytest.raises(DataError, match="empty"):
        read_synonyms(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cropp"}, "^data.augment: found 'cropp', expected one of .*; did you mean 'crop'"),
        ({"kind": "crop", "rate": 0.0}, "^data.augment_rate is 0.0"),
        ({"kind": "mask"}, "no mask token"),
        ({"kind": "synonym"}, "needs data.synonyms, a file"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_augment(**options)  # type: ignore[arg-type]


def test_positives_are_augmented_anew_each_step_whatever_the_processes(tiny_bert: Path, sentences: list[str]) -> None:
    """Two processes together see what one does; view 0 stays the text; another step changes it otherwise."""
    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    data = datasets.Dataset.from_dict({"text": sentences[:8]})
    augment = build_augment("delete", rate=0.3)

    def batches(rank: int = 0, world: int = 1) -> Batches:
        return Batches(data, encoder.tokenize(32), batch_size=8, seed=1, rank=rank, world=world, augment=augment)

    whole, first, second = batches().batch_of(3), batches(0, 2).batch_of(3), batches(1, 2).batch_of(3)
    assert torch.equal(whole.tokens.ids, torch.cat([first.tokens.ids, second.tokens.ids]))
    assert torch.equal(whole.keys, torch.cat([first.keys, second.keys], dim=1))
    lengths = np.array(whole.tokens.lengths).reshape(8, 2)
    words = [len(sentences[row].split()) for row in whole.rows]
    assert all(short < long for (long, short), n in zip(lengths, words, strict=True) if n > 1)
    later = batches().batch_of(4)
    by_row = {row: int(key) for row, key in zip(whole.rows, whole.keys[1], strict=True)}
    assert any(by_row[row] != int(key) for row, key in zip(later.rows, later.keys[1], strict=True))
    assert not batches().repeats_texts
