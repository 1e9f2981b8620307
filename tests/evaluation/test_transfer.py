"""Transfer tasks: the layouts, a separable problem that is solved, an unlearnable one that is not, wrong files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simcse.errors import ConfigError, DataError, ModelError
from simcse.evaluation.suite import evaluate
from simcse.evaluation.transfer import TASKS, evaluate_transfer, load_transfer

GOOD, BAD = ["good", "fine", "great", "lovely", "nice"], ["bad", "awful", "dull", "poor", "sad"]
FILLER = ["film", "book", "song", "actor", "scene", "end", "story", "line", "part", "day"]


def opinion(rng: random.Random, positive: bool) -> str:
    words = rng.choices(GOOD if positive else BAD, k=3) + rng.choices(FILLER, k=3)
    rng.shuffle(words)
    return " ".join(words)


def write(path: Path, rows: list[str], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in rows), encoding=encoding)


@pytest.fixture
def transfer_root(tmp_path: Path) -> Path:
    """MR, SST2, TREC and MRPC in SentEval's layout, each easy for a bag of words."""
    rng = random.Random(0)
    root = tmp_path / "senteval"
    for file, positive in (("rt-polarity.neg", False), ("rt-polarity.pos", True)):
        write(root / "MR" / file, [opinion(rng, positive) for _ in range(60)])
    for part, n in (("train", 120), ("dev", 40), ("test", 40)):
        write(root / "SST/binary" / f"sentiment-{part}", [f"{opinion(rng, i % 2 == 1)} \t{i % 2}" for i in range(n)])
    for file, n in (("train_5500.label", 240), ("TREC_10.label", 60)):
        labels = TASKS["TREC"].labels
        rows = [f"{labels[i % 6]}:fine {labels[i % 6].lower()} {rng.choice(FILLER)} caf\xe9 ?" for i in range(n)]
        write(root / "TREC" / file, rows, "latin-1")
    for file, n in (("msr_paraphrase_train.txt", 160), ("msr_paraphrase_test.txt", 60)):
        rows = ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for i in range(n):
            text = opinion(rng, rng.random() < 0.5)
            rows.append(f"{i % 2}\t{i}\t{i}\t{text}\t{text if i % 2 else opinion(rng, rng.random() < 0.5)}")
        write(root / "MRPC" / file, rows)
    return root


@pytest.mark.parametrize(("name", "n"), [("MR", 120), ("SST2", 40), ("TREC", 60), ("MRPC", 60)])
def test_what_words_tell_is_learned(transfer_root: Path, word_vectors: Callable, name: str, n: int) -> None:
    score = evaluate_transfer(word_vectors, load_transfer(name, transfer_root))
    assert score.n == n
    assert score.accuracy > 90
    assert (score.f1 is not None) == (name == "MRPC")
    assert score.f1 is None or 85 < score.f1 <= 100


def test_the_report_says_beside_the_score_that_sentevals_own_may_differ(
    transfer_root: Path, word_vectors: Callable
) -> None:
    report = evaluate(word_vectors, ["MR"], transfer_root)
    said = "not SentEval's own: scores differ from its by tenths, CR's by up to a point"
    for text in (report.to_terminal(), report.to_markdown(), report.to_dict()["protocol"]["transfer"]):
        assert said in " ".join(text.split())
    assert all(len(line) <= 80 for line in report.to_terminal().splitlines())


def test_what_words_do_not_tell_stays_at_chance(transfer_root: Path, word_vectors: Callable) -> None:
    """Labels without relation to texts: a leak of the test rows into training would lift this above chance."""
    rng = random.Random(1)
    for file in TASKS["MR"].files:
        rows = [" ".join(rng.choices(FILLER + GOOD + BAD, k=6)) for _ in range(150)]
        write(transfer_root / "MR" / file, rows)
    score = evaluate_transfer(word_vectors, load_transfer("MR", transfer_root.parent))
    assert 35 < score.accuracy < 65


def test_scores_repeat_exactly(transfer_root: Path, word_vectors: Callable) -> None:
    data = load_transfer("mr", transfer_root)
    assert evaluate_transfer(word_vectors, data) == evaluate_transfer(word_vectors, data)


def test_distinct_texts_are_encoded_once(transfer_root: Path, word_vectors: Callable) -> None:
    calls = []

    def encode(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return word_vectors(texts)

    evaluate_transfer(encode, load_transfer("MRPC", transfer_root))
    [texts] = calls
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("task", "file", "text", "message"),
    [
        ("SST2", "SST/binary/sentiment-dev", "fine film\t2\n", "sentiment-dev:1: label '2' is none of SST2's: 0, 1"),
        ("SST2", "SST/binary/sentiment-dev", "no label\n", "sentiment-dev:1: found 1 columns, expected 2"),
        ("SST2", "SST/binary/sentiment-test", "a\t1\nb\t1\n", "sentiment-test: found 1 different labels in 2 rows"),
        ("TREC", "TREC/TREC_10.label", "WHAT:x is this ?\n", r"TREC_10\.label:1: label 'WHAT' is none of TREC's: ABBR"),
        ("MR", "MR/rt-polarity.pos", "one\ntwo\n", "MR: a class has 2 rows, expected at least 20 for 10 folds"),
        ("MRPC", "MRPC/msr_paraphrase_test.txt", "h\n1\t2\n", r"test\.txt:2: found 2 columns, expected 5"),
    ],
)
def test_wrong_files_are_told(
    transfer_root: Path, word_vectors: Callable, task: str, file: str, text: str, message: str
) -> None:
    (transfer_root / file).write_text(text)
    with pytest.raises(DataError, match=message):
        evaluate_transfer(word_vectors, load_transfer(task, transfer_root))


def test_missing_tasks_and_bad_vectors_are_named(transfer_root: Path, word_vectors: Callable) -> None:
    with pytest.raises(DataError, match=r"CR/custrev\.neg: not found, and CR needs it"):
        load_transfer("CR", transfer_root)
    with pytest.raises(ConfigError, match=r"task 'SST' is not one of MR, .*did you mean 'SST2'"):
        load_transfer("SST", transfer_root)
    data = load_transfer("SST2", transfer_root)
    bad = data.parts["dev"].a[4]

    def encode(texts: list[str]) -> np.ndarray:
        vectors = word_vectors(texts)
        vectors[texts.index(bad)] = np.nan
        return vectors

    with pytest.raises(ModelError, match=r"SST2 (train|dev), row [0-9]+ .*NaN or infinite"):
        evaluate_transfer(encode, data)


def test_real_folders_hold_the_published_rows(data_dir: Path) -> None:
    """CR and MPQA are published as 3,775 and 10,606 lines, 4 and 3 of them blank."""
    sizes = {name: {k: len(part.a) for k, part in load_transfer(name, data_dir).parts.items()} for name in TASKS}
    assert sizes == {
        "MR": {"all": 10662}, "CR": {"all": 3771}, "SUBJ": {"all": 10000}, "MPQA": {"all": 10603},
        "SST2": {"train": 67349, "dev": 872, "test": 1821}, "TREC": {"train": 5452, "test": 500},
        "MRPC": {"train": 4076, "test": 1725},
    }  # fmt: skip
