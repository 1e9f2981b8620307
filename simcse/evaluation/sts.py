"""Semantic textual similarity: the seven tasks of the SimCSE paper from SentEval's folders, and two Japanese ones.

The protocol of the paper: cosine, Spearman's correlation, the sub-sets of a year put together before one
correlation (aggregation `all`). `mean` and `wmean` correlate each sub-set alone and average, the latter weighted by
pairs; the three differ by up to 3 points a task, so a score without its aggregation says little.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simcse.data.pairs import ScoredPairs
from simcse.data.readers import read_scored_pairs
from simcse.data.tabular import check_file, delimited_rows, lines
from simcse.errors import ConfigError, DataError, did_you_mean, shown
from simcse.evaluation.pairs import PairEvaluator, PairScore, correlate
from simcse.vectors import Encode

__all__ = [
    "SEVEN",
    "TASKS",
    "Aggregation",
    "StsScore",
    "StsTask",
    "check_aggregation",
    "evaluate_sts",
    "find_task",
    "load_task",
    "needed_by",
    "score_sts",
]

log = logging.getLogger(__name__)

Aggregation = Literal["all", "mean", "wmean"]


@dataclass(frozen=True)
class StsTask:
    """Where a task's pairs lie, and how many there should be."""

    name: str
    split: str
    folder: str
    """Below SentEval's root (the folder with STS and SICK), or for Japanese below the folder with JGLUE and JSICK."""
    subsets: dict[str, int]
    """Sub-set (a name in STS.input.NAME.txt, or a file) -> scored pairs in the published data."""
    columns: tuple[str, str, str] | None = None
    """For a single file whose header does not tell sentences and score by itself."""
    scores: tuple[float, float] = (0, 5)
    """The least and the greatest gold score that annotators could give."""
    cloned: str = ""
    """Where the task's own repository has the folder, if elsewhere."""

    @property
    def n(self) -> int:
        """Scored pairs of the published data."""
        return sum(self.subsets.values())

    @property
    def is_semeval(self) -> bool:
        """Whether sentences and scores lie in STS.input.* and STS.gs.* files."""
        return not any(name.endswith((".csv", ".txt", ".tsv", ".json")) for name in self.subsets)


def _semeval(year: int, **subsets: int) -> StsTask:
    named = {name.replace("__", ".").replace("_", "-"): n for name, n in subsets.items()}
    return StsTask(f"STS{year}", "test", f"STS/STS{year}-en-test", named)


TASKS: dict[str, StsTask] = {
    task.name: task
    for task in (
        _semeval(12, MSRpar=750, MSRvid=750, SMTeuroparl=459, surprise__OnWN=750, surprise__SMTnews=399),
        _semeval(13, FNWN=189, headlines=750, OnWN=561),  # SMT is not freely available: nobody reports it
        _semeval(14, deft_forum=450, deft_news=300, headlines=750, images=750, OnWN=750, tweet_news=750),
        _semeval(15, answers_forums=375, answers_students=750, belief=375, headlines=750, images=750),
        _semeval(16, answer_answer=254, headlines=249, plagiarism=230, postediting=244, question_question=209),
        StsTask("STS-B", "test", "STS/STSBenchmark", {"sts-test.csv": 1379}),
        StsTask("STS-B-dev", "dev", "STS/STSBenchmark", {"sts-dev.csv": 1500}),
        StsTask("SICK-R", "test", "SICK", {"SICK_test_annotated.txt": 4927}, scores=(1, 5)),
        StsTask("JSTS", "valid", "JGLUE/jsts-v1.3", {"valid-v1.3.json": 1457}, cloned="JGLUE/datasets/jsts-v1.3"),
        StsTask("JSTS-test", "test", "JGLUE/jsts-v1.3", {"test-v1.3.json": 1589}, cloned="JGLUE/datasets/jsts-v1.3"),
        StsTask(
            "JSICK", "test", "JSICK/jsick", {"test.tsv": 4927},
            ("sentence_A_Ja", "sentence_B_Ja", "relatedness_score_Ja"),
        ),
    )
}  # fmt: skip

SEVEN = ("STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R")
ALIASES = {"stsbtest": "STS-B", "stsbenchmark": "STS-B", "sick": "SICK-R", "jstsvalid": "JSTS", "jsickr": "JSICK"}


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def check_aggregation(name: str) -> None:
    """Raise a ConfigError for an unknown one."""
    if name not in get_args(Aggregation):
        raise ConfigError(f"aggregation {name!r} is not one of {', '.join(get_args(Aggregation))}")


def find_task(name: str) -> StsTask | None:
    """The task of that name, whatever its case and hyphens (`stsb-dev`, `STSB-test`, `sick_r`), or None."""
    known = {_plain(task): task for task in TASKS} | ALIASES
    return TASKS[known[_plain(name)]] if _plain(name) in known else None


def load_task(task: StsTask | str, data_dir: str | Path) -> list[ScoredPairs]:
    """Read a task's sub-sets; rows without a gold score are dropped.

    Args:
        task: or its name.
        data_dir: SentEval's root (it holds `STS` and `SICK`), or the folder above it; for Japanese the folder that
            holds `JGLUE` and `JSICK`, or the one above that and named `ja` below it.

    Raises:
        ConfigError: no such task.
        DataError: a file is missing (named), or damaged.
    """
    if isinstance(task, str):
        found = find_task(task)
        if found is None:
            raise ConfigError(f"task {task!r} is not one of {', '.join(TASKS)}{did_you_mean(task, TASKS)}")
        task = found
    folder = _folder(task, Path(data_dir))
    read = _read_semeval if task.is_semeval else _read_table
    subsets = [read(task, folder, name) for name in task.subsets]
    if (n := sum(map(len, subsets))) != task.n:
        log.warning("%s: %d scored pairs in %s, %d published: not comparable", task.name, n, folder, task.n)
    return subsets


def _folder(task: StsTask, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise DataError(
            f"{data_dir}: no such folder; set data_dir (or SIMCSE_DATA) to the one that holds SentEval's STS; "
            "simcse data sts fetches it"
        )
    roots = (data_dir, data_dir / "senteval", data_dir / "ja", data_dir.parent / "ja")
    tried = [root / folder for folder in (task.folder, task.cloned) if folder for root in roots]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise DataError(f"{tried[0]}: not found, {needed_by(task.name)}")


def needed_by(task: str) -> str:
    """What to say of a file or folder that a task lacks."""
    return f"and {task} needs it; put it there, or leave {task} out of the tasks"


def _read_semeval(task: StsTask, folder: Path, subset: str) -> ScoredPairs:
    inputs, golds = folder / f"STS.input.{subset}.txt", folder / f"STS.gs.{subset}.txt"
    for path in (inputs, golds):
        check_file(path, needed_by(task.name))
    pairs, scores = list(delimited_rows(inputs, "tsv")), list(lines(golds))
    if len(pairs) != len(scores):
        raise DataError(f"{golds}: found {len(scores)} lines, expected {len(pairs)} as in {inputs.name}")
    a, b, gold = [], [], []
    for (number, fields), score in zip(pairs, scores, strict=True):
        if not score.strip():  # annotated by nobody
            continue
        if len(fields) < 2:
            raise DataError(f"{inputs}:{number}: found {len(fields)} columns, expected 2 sentences with a tab between")
        if not (fields[0].strip() and fields[1].strip()):
            raise DataError(f"{inputs}:{number}: a sentence is blank; fill it, or empty line {number} of {golds.name}")
        try:
            gold.append(float(score))
        except ValueError as error:
            raise DataError(f"{golds}:{number}: score {shown(score)} is no number, expected 0 to 5") from error
        if not 0 <= gold[-1] <= 5:
            raise DataError(f"{golds}:{number}: score {shown(score)} is out of range, expected 0 to 5")
        a.append(fields[0])
        b.append(fields[1])
    return ScoredPairs(a, b, np.array(gold), f"{task.name} {subset}")


def _read_table(task: StsTask, folder: Path, name: str) -> ScoredPairs:
    path = folder / name
    check_file(path, needed_by(task.name))
    read = read_scored_pairs(path, columns=task.columns)
    low, high = task.scores
    if len(wrong := np.flatnonzero((read.scores < low) | (read.scores > high))):
        raise DataError(
            f"{path}: {task.name}, pair {wrong[0] + 1}: score {read.scores[wrong[0]]:g} is out of range, expected "
            f"{low:g} to {high:g} ({len(wrong)} of {len(read)} pairs)"
        )
    return ScoredPairs(read.a, read.b, read.scores, task.name)


@dataclass(frozen=True)
class StsScore(PairScore):
    """A task's score by one aggregation, with its sub-sets."""

    split: str
    subsets: dict[str, PairScore]
    """Each sub-set alone; empty where there is only one."""


def evaluate_sts(
    encode: Encode,
    data_dir: str | Path,
    tasks: Sequence[str] | None = None,
    aggregation: Aggregation = "all",
) -> dict[str, StsScore]:
    """Score an encoder on STS tasks; every distinct sentence over all of them is encoded once, in one call.

    Args:
        encode: `encode(list of n texts) -> (n, d)`.
        data_dir: SentEval's root, or the folder above it.
        tasks: names from `TASKS`; default the seven of the paper.
        aggregation: `all` (the paper's: sub-sets put together), `mean` or `wmean` (by pairs) of the sub-sets' scores.

    Returns:
        Scores by task name, in the order asked for.

    Raises:
        ConfigError: an unknown task or aggregation.
        DataError: a file is missing or damaged, or its gold scores allow no correlation.
        ModelError: a vector that is NaN, infinite or zero; names task and row.
    """
    return score_sts(encode, {task: load_task(task, data_dir) for task in (tasks or SEVEN)}, aggregation)


def score_sts(
    encode: Encode, loaded: Mapping[str, list[ScoredPairs]], aggregation: Aggregation = "all"
) -> dict[str, StsScore]:
    """`evaluate_sts` for sub-sets that are read already, by task name."""
    check_aggregation(aggregation)
    evaluator = PairEvaluator(*(subset for subsets in loaded.values() for subset in subsets))
    cosines = iter(evaluator.cosines(encode))
    scores = {}
    for asked, subsets in loaded.items():
        task = find_task(asked)
        assert task is not None  # load_task found it
        scores[task.name] = _score(task, subsets, [next(cosines) for _ in subsets], aggregation)
    return scores


def _score(
    task: StsTask, subsets: list[ScoredPairs], cosines: list[NDArray[np.float32]], aggregation: Aggregation
) -> StsScore:
    n = sum(map(len, subsets))
    gold = np.concatenate([subset.scores for subset in subsets])
    whole = correlate(np.concatenate(cosines), gold, task.name)
    if len(subsets) == 1:
        return StsScore(*whole, n=n, split=task.split, subsets={})
    parts = [
        PairScore(*correlate(part, subset.scores, subset.name), n=len(subset))
        for subset, part in zip(subsets, cosines, strict=True)
    ]
    if aggregation != "all":
        weights = [part.n if aggregation == "wmean" else 1 for part in parts]
        spearman = float(np.average([part.spearman for part in parts], weights=weights))
        whole = spearman, float(np.average([part.pearson for part in parts], weights=weights))
    return StsScore(*whole, n=n, split=task.split, subsets=dict(zip(task.subsets, parts, strict=True)))
