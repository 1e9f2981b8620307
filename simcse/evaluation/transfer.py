"""Transfer tasks: what a linear classifier finds in frozen vectors (SentEval's MR, CR, SUBJ, MPQA, SST2, TREC, MRPC).

The protocol is SentEval's: 10-fold cross-validation where a task has no split, the given split otherwise,
regularisation chosen on held-out training rows. Departures from SentEval's own classifiers, which shift scores by some
tenths, CR's by up to a point; `NOTE` says so beside the scores:

- scikit-learn's multinomial logistic regression (L-BFGS, to convergence) in place of a network of one layer trained for
  a few epochs of Adam, or of liblinear's one-against-rest;
- vectors are standardised by the training rows, and C is chosen among 1e-4 ... 1 rather than 0.25 ... 8, which on
  standardised vectors is nearly no regularisation at all;
- within a fold, or where a task has no development set, C is chosen on one held-out tenth of the training rows, where
  SentEval cross-validates in ten folds once more;
- vectors are of unit length, where SentEval uses them as they come; its network of one layer learns less from those;
- folds are drawn from rows in the files' order, SentEval's from rows sorted by length;
- rows without text are left out: 4 of CR, 3 of MPQA. (SentEval reads CR as Latin-1, which changes no score.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simcse.data.tabular import check_file, delimited_rows, lines
from simcse.errors import ConfigError, DataError, did_you_mean, shown
from simcse.evaluation.sts import needed_by
from simcse.vectors import Encode, unit_vectors

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

__all__ = ["NOTE", "TASKS", "TransferScore", "TransferSet", "TransferTask", "evaluate_transfer", "load_transfer"]

FOLDS = 10
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn: the smaller, the stronger the regularisation
SEED = 1111  # SentEval's default
NOTE = "transfer: classifier and folds are not SentEval's own: scores differ from its by tenths, CR's by up to a point"


@dataclass(frozen=True)
class TransferTask:
    """Where a task lies, and what its labels are."""

    name: str
    folder: str
    """Below SentEval's root."""
    files: tuple[str, ...]
    """By class (negative first) where `parts` is empty, else one for each part."""
    labels: tuple[str, ...]
    parts: tuple[str, ...] = ()
    """Splits in the order of `files`."""
    encoding: str = "utf-8"

    @property
    def protocol(self) -> str:
        """How the score comes about."""
        return "given split" if self.parts else f"{FOLDS}-fold"


BINARY = ("0", "1")
TASKS: dict[str, TransferTask] = {
    task.name: task
    for task in (
        TransferTask("MR", "MR", ("rt-polarity.neg", "rt-polarity.pos"), BINARY),
        TransferTask("CR", "CR", ("custrev.neg", "custrev.pos"), BINARY),
        TransferTask("SUBJ", "SUBJ", ("subj.subjective", "subj.objective"), BINARY),
        TransferTask("MPQA", "MPQA", ("mpqa.neg", "mpqa.pos"), BINARY),
        TransferTask(
            "SST2", "SST/binary", ("sentiment-train", "sentiment-dev", "sentiment-test"), BINARY,
            ("train", "dev", "test"),
        ),
        TransferTask(
            "TREC", "TREC", ("train_5500.label", "TREC_10.label"), ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"),
            ("train", "test"), "latin-1",
        ),
        TransferTask(
            "MRPC", "MRPC", ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"), BINARY, ("train", "test")
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Labelled rows: one text each, or two."""

    a: list[str]
    b: list[str]
    """Second texts; empty for tasks on single sentences."""
    labels: NDArray[np.int64]  # (n,)


@dataclass(frozen=True)
class TransferSet:
    """A task's rows by part; a task without splits has the one part `all`."""

    task: TransferTask
    parts: dict[str, Part]


@dataclass(frozen=True)
class TransferScore:
    """Accuracy, and F1 of the positive class for MRPC, in per cent."""

    accuracy: float
    f1: float | None
    n: int
    """Sentences (pairs, for MRPC) that were classified in the test."""
    gold: NDArray[np.int64] = field(repr=False, compare=False)
    """(n,) their labels."""
    predicted: NDArray[np.int64] = field(repr=False, compare=False)
    """(n,)."""


def load_transfer(name: str, data_dir: str | Path) -> TransferSet:
    """Read a task from SentEval's root, or from the folder above it.

    Raises:
        ConfigError: no such task.
        DataError: a file is missing (named) or damaged, or holds a label that is none of the task's.
    """
    if name.upper() not in TASKS:
        raise ConfigError(f"task {name!r} is not one of {', '.join(TASKS)}{did_you_mean(name.upper(), TASKS)}")
    task = TASKS[name.upper()]
    root = Path(data_dir)
    folder = next((f for f in (root / task.folder, root / "senteval" / task.folder) if f.is_dir()), root / task.folder)
    for file in task.files:
        check_file(folder / file, needed_by(task.name))
    if not task.parts:
        classes = [list(_texts(task, folder / file)) for file in task.files]
        labels = np.repeat(np.arange(len(classes)), [len(rows) for rows in classes])
        return TransferSet(task, {"all": Part([text for rows in classes for text in rows], [], labels)})
    return TransferSet(
        task, {part: _part(task, folder / file) for part, file in zip(task.parts, task.files, strict=True)}
    )


def _texts(task: TransferTask, path: Path) -> Iterator[str]:
    """Lines that hold text."""
    return (line for line in lines(path, encoding=task.encoding) if line.strip())


def _part(task: TransferTask, path: Path) -> Part:
    a, b, labels = [], [], []
    known = {label: i for i, label in enumerate(task.labels)}
    for number, (label, *texts) in _labelled(task, path):
        if label not in known:
            raise DataError(f"{path}:{number}: label {shown(label)} is none of {task.name}'s: {', '.join(task.labels)}")
        labels.append(known[label])
        a.append(texts[0])
        b.extend(texts[1:])
    if len(set(labels)) < 2:
        raise DataError(f"{path}: found {len(set(labels))} different labels in {len(labels)} rows, expected at least 2")
    return Part(a, b, np.array(labels))


def _labelled(task: TransferTask, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, [label, text] or [label, text, text]) in each task's own layout."""
    if task.name == "TREC":  # NUM:dist How far is it ...
        for number, line in enumerate(lines(path, encoding=task.encoding), 1):
            if line.strip():
                label, _, text = line.partition(" ")
                yield number, [label.partition(":")[0], text]
        return
    columns = 5 if task.name == "MRPC" else 2
    for number, fields in delimited_rows(path, "tsv"):
        if not fields or (task.name == "MRPC" and number == 1):
            continue
        if len(fields) != columns:
            raise DataError(f"{path}:{number}: found {len(fields)} columns, expected {columns} with tabs between")
        yield number, [fields[0], *fields[3:]] if task.name == "MRPC" else [fields[1].strip(), fields[0]]


def evaluate_transfer(encode: Encode, data: TransferSet) -> TransferScore:
    """Fit a logistic regression on frozen vectors and score it; each distinct text is encoded once.

    Pairs (MRPC) are represented by |u - v| and u * v side by side.

    Raises:
        ConfigError: scikit-learn is not installed.
        DataError: a class has fewer rows than there are folds.
        ModelError: a vector that is NaN, infinite or zero; names the row.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError("transfer tasks need scikit-learn: pip install 'simcse-kit[evaluation]'") from error
    features = _features(encode, data)
    labels = {name: part.labels for name, part in data.parts.items()}
    if "all" in features:
        predicted = _cross_validate(data.task, features["all"], labels["all"])
        gold = labels["all"]
    else:
        train = features["train"], labels["train"]
        held_out = (features["dev"], labels["dev"]) if "dev" in features else None
        predicted = _fit(*train, held_out).predict(features["test"])
        gold = labels["test"]
    f1 = None
    if data.task.name == "MRPC":
        from sklearn.metrics import f1_score

        f1 = 100 * float(f1_score(gold, predicted))
    return TransferScore(100 * float(np.mean(predicted == gold)), f1, len(gold), gold, predicted)


def _features(encode: Encode, data: TransferSet) -> dict[str, NDArray[np.float32]]:
    """Part -> (n, d), or (n, 2d) for pairs."""
    rows: dict[str, int] = {}
    first: list[str] = []
    for name, part in data.parts.items():
        for side in (part.a, part.b):
            for i, text in enumerate(side):
                if rows.setdefault(text, len(rows)) == len(first):
                    first.append(f"{data.task.name} {name}, row {i + 1}")
    vectors = unit_vectors(encode, list(rows), where=first.__getitem__, nonzero=True)  # (distinct, d)
    features = {}
    for name, part in data.parts.items():
        u = vectors[[rows[text] for text in part.a]]  # (n, d)
        if part.b:
            v = vectors[[rows[text] for text in part.b]]
            u = np.concatenate([np.abs(u - v), u * v], axis=1)  # (n, 2d)
        features[name] = u
    return features


def _cross_validate(task: TransferTask, x: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row's label as predicted by the fold that did not see it."""
    from sklearn.model_selection import StratifiedKFold

    if (fewest := int(np.bincount(y).min())) < 2 * FOLDS:
        raise DataError(f"{task.name}: a class has {fewest} rows, expected at least {2 * FOLDS} for {FOLDS} folds")
    predicted = np.empty_like(y)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(x, y):
        predicted[test] = _fit(x[train], y[train], None).predict(x[test])
    return predicted


def _fit(x: NDArray[Any], y: NDArray[Any], held_out: tuple[NDArray[Any], NDArray[Any]] | None) -> LogisticRegression:
    """Standardise, choose C on the held-out rows (or on a tenth of the training rows), fit on all training rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if held_out is None:
        inner_x, dev_x, inner_y, dev_y = train_test_split(x, y, test_size=0.1, random_state=SEED, stratify=y)
    else:
        inner_x, inner_y, (dev_x, dev_y) = x, y, held_out
    scaler = StandardScaler().fit(inner_x)
    scaled, scaled_dev = scaler.transform(inner_x), scaler.transform(dev_x)
    # from strong to weak regularisation, each fit starting from the last one's weights
    path = LogisticRegression(max_iter=1000, warm_start=True)
    scores = [path.set_params(C=c).fit(scaled, inner_y).score(scaled_dev, dev_y) for c in STRENGTHS]
    best = STRENGTHS[int(np.argmax(scores))]
    return make_pipeline(StandardScaler(), LogisticRegression(C=best, max_iter=1000)).fit(x, y)
