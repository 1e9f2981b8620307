"""One call from names and files to a report, and the report in its three forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from simcse.errors import ConfigError, DataError
from simcse.evaluation.items import query_intervals, transfer_intervals
from simcse.evaluation.report import Report, TaskResult
from simcse.evaluation.retrieval import METRICS
from simcse.evaluation.sts import SEVEN
from simcse.evaluation.suite import evaluate
from simcse.evaluation.transfer import TransferScore


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Path]:
    """A user's own files."""
    files = {name: tmp_path / name for name in ("pairs.tsv", "pairs.jsonl", "qa.csv", "stsb.csv")}
    files["pairs.tsv"].write_text("a b\ta c\t3\nd e\tf g\t1\na b\ta b\t5\n")
    files["pairs.jsonl"].write_text('{"a": "a b", "b": "a c", "score": 3}\n{"a": "x", "b": "y z", "score": 0.5}\n')
    files["qa.csv"].write_text("question,answer\nwhat q,q one\nwho r,r two\n")
    files["stsb.csv"].write_text("g\tf\ty\t1\t5.0\ta b\ta b\ng\tf\ty\t2\t1.0\ta b\td e\n")
    return files


def test_everything_at_once(senteval: Path, own: dict[str, Path], word_vectors: Callable) -> None:
    asked: list[str] = []
    encoded: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        encoded.extend(texts)
        return word_vectors(texts)

    tasks = ["sts", "geometry", *map(str, own.values())]
    report = evaluate(encode, tasks, senteval, model="words", settings={"dtype": "fp64"}, on_task=asked.append)
    assert len(encoded) == len(set(encoded))  # once over all tasks
    assert [r.name for r in report.results] == [
        *SEVEN, "STS-B-dev", "pairs.tsv", "pairs.jsonl", "stsb.csv", "qa",
    ]  # fmt: skip
    kinds = {result.name: result.kind for result in report.results}
    assert kinds["pairs.jsonl"] == kinds["stsb.csv"] == "pairs"
    assert kinds["qa"] == "retrieval"
    assert report.average == pytest.approx(np.mean([r.metrics["spearman"] for r in report.results[:7]]))
    assert asked[0] == ", ".join([*SEVEN, "STS-B-dev"])

    written = json.loads(json.dumps(report.to_dict()))
    assert written["model"] == "words"
    assert written["protocol"]["aggregation"] == "all"
    assert written["protocol"]["dtype"] == "fp64"
    assert written["tasks"]["STS12"]["n"] == 40
    assert written["tasks"]["STS12"]["spearman"] == report.results[0].metrics["spearman"]
    assert set(written["tasks"]["STS12"]["subsets"]["MSRpar"]) == {"spearman", "pearson", "n"}
    assert written["average_of"] == list(SEVEN)
    for task in written["tasks"].values():
        for metric, (low, high) in task["intervals"].items():
            assert low - 1e-9 <= task[metric] <= high + 1e-9
    assert set(written["tasks"]["qa"]["intervals"]) == set(METRICS)
    low, high = written["average_interval"]
    assert low < written["average"] < high
    assert high - low < np.mean([np.ptp(written["tasks"][task]["intervals"]["spearman"]) for task in SEVEN])
    assert {"alignment", "uniformity"} <= set(written["geometry"])
    assert {"torch", "numpy", "scipy", "python"} <= set(written["versions"])
    assert written["speed"]["sentences"] == len(encoded)


def test_intervals_of_queries_and_rows_are_scipys() -> None:
    """Percentiles of a bootstrap; F1 is computed anew on each sample."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(200, len(METRICS)))
    for name, found in query_intervals(scores, "x").items():
        column = scores[:, METRICS.index(name)]
        expected = stats.bootstrap((column,), np.mean, method="percentile", n_resamples=5000, rng=rng)
        assert found == pytest.approx(expected.confidence_interval, abs=0.006)
    gold = rng.integers(2, size=400)
    predicted = np.where(rng.uniform(size=400) < 0.8, gold, 1 - gold)
    found = transfer_intervals(TransferScore(80.0, 80.0, 400, gold, predicted), "x")
    for name, score in (("accuracy", accuracy_score), ("f1", f1_score)):
        drawn = [score(gold[rows], predicted[rows]) for rows in rng.integers(400, size=(1000, 400))]
        assert found[name] == pytest.approx(100 * np.percentile(drawn, [2.5, 97.5]), abs=0.6)
    assert set(transfer_intervals(TransferScore(80.0, None, 400, gold, predicted), "x")) == {"accuracy"}


def test_names_may_be_groups_tasks_and_spellings(senteval: Path, word_vectors: Callable) -> None:
    report = evaluate(word_vectors, ["stsb-dev", "STS-B-dev", "sts16"], senteval)
    assert [result.name for result in report.results] == ["STS-B-dev", "STS16"]
    assert report.average_of == ["STS16"]


def test_wrong_names_are_told_before_anything_is_encoded(senteval: Path, own: dict[str, Path], tmp_path: Path) -> None:
    def never(texts: list[str]) -> np.ndarray:
        raise AssertionError("encoded before all tasks were read")

    with pytest.raises(ConfigError, match=r"tasks: found tranfser, no such task or file; did you mean 'transfer'"):
        evaluate(never, ["sts", "tranfser"], senteval)
    with pytest.raises(ConfigError, match=r"aggregation 'median' is not one of all, mean, wmean"):
        evaluate(never, ["sts"], senteval, aggregation="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^tasks=STS12 needs data_dir"):
        evaluate(never, ["sts"], None)
    with pytest.raises(DataError, match=r"paris\.tsv: no such file; did you mean 'pairs\.tsv'"):
        evaluate(never, ["sts", str(tmp_path / "paris.tsv")], senteval)
    own["pairs.tsv"].write_text("a b\ta c\t3\nd e\tf g\t3\n")
    with pytest.raises(DataError, match=r"pairs\.tsv: all 2 gold scores are 3"):
        evaluate(never, ["sts", str(own["pairs.tsv"])], senteval)
    own["pairs.tsv"].write_text("a b\ta c\t3\n")
    with pytest.raises(DataError, match=r"pairs\.tsv: found 1 scored pair, expected at least 2"):
        evaluate(never, ["sts", str(own["pairs.tsv"])], senteval)
    with pytest.raises(DataError, match=r"MR/rt-polarity\.neg: not found"):
        evaluate(never, ["sts", "transfer"], senteval)
    with pytest.raises(DataError, match=r"ir: no \*/corpus\.jsonl there"):
        evaluate(never, ["retrieval"], senteval)


def test_collections_are_found_in_the_data_folder(senteval: Path, word_vectors: Callable) -> None:
    for name in ("one", "two"):
        folder = senteval.parent / "ir" / name
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "a b"}\n{"_id": "2", "text": "c d"}\n')
        (folder / "queries.jsonl").write_text('{"_id": "q", "text": "b"}\n')
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    for data_dir in (senteval, senteval.parent):
        report = evaluate(word_vectors, ["retrieval"], data_dir)
        assert {result.name: result.metrics["mrr@10"] for result in report.results} == {"one": 1.0, "two": 1.0}
    for task in ("two", str(senteval.parent / "ir" / "two")):
        assert [result.name for result in evaluate(word_vectors, [task], senteval).results] == ["two"]


@pytest.fixture
def report() -> Report:
    """One result of each kind."""
    results = [
        TaskResult(
            "STS12", "sts", {"spearman": 72.368, "pearson": 81.0}, 3108, "pairs", "test", "all, 5 sub-sets",
            intervals={"spearman": (71.5, 73.25)}, drawn=np.array([71.0, 74.0]),
        ),
        TaskResult(
            "STS-B", "sts", {"spearman": 82.05, "pearson": 82.0}, 1379, "pairs", "test", "cosine",
            intervals={"spearman": (81.0, 83.0)}, drawn=np.array([81.0, 82.0]),
        ),
        TaskResult("MRPC", "transfer", {"accuracy": 75.1, "f1": 82.0}, 1725, "rows", "test", "given split"),
        TaskResult("MR", "transfer", {"accuracy": 80.1}, 10662, "rows", "all", "10-fold"),
        TaskResult(
            "scifact", "retrieval",
            {"ndcg@10": 0.645, "mrr@10": 0.6, "recall@1": 0.5, "recall@10": 0.8, "recall@100": 0.9, "map": 0.6},
            300, "queries", "test", "5,183 docs", intervals={"ndcg@10": (0.6, 0.69)},
        ),
    ]  # fmt: skip
    return Report("a/" + "long-" * 20 + "name", {"aggregation": "all"}, results, {"alignment": 0.25}, averaged=SEVEN)


def test_the_table_fits_eighty_columns_and_says_the_protocol(report: Report) -> None:
    text = report.to_terminal()
    assert max(map(len, text.splitlines())) <= 80
    line = next(line for line in text.splitlines() if "STS12" in line)
    for part in ("test", "all, 5 sub-sets", "3,108", "72.37", "71.50 to 73.25"):
        assert part in line
    assert "average of 2" in text
    assert "77.21" in text
    assert report.average_interval == pytest.approx((76.05, 77.95))  # of the averages 76 and 78
    assert "76.05 to 77.95" in text
    assert "nDCG@10" in text
    assert "0.600 to 0.690" in text
    assert "0.645" in text


def test_markdown_has_the_same_rows(report: Report) -> None:
    text = report.to_markdown()
    assert "| STS12 | test | all, 5 sub-sets | 3,108 | 72.37 | 81.00 | 71.50 to 73.25 |" in text
    assert "| MR | all | 10-fold | 10,662 | 80.10 |  |  |" in text
    assert "| alignment | 0.250 |" in text


def test_reports_are_written_whole_or_not_at_all(report: Report, tmp_path: Path) -> None:
    assert report.write(tmp_path / "new" / "out") == [
        tmp_path / "new/out/report.json", tmp_path / "new/out/report.md",
    ]  # fmt: skip
    assert json.loads((tmp_path / "new/out/report.json").read_text()) == report.to_dict()
    report.write(tmp_path / "new/out/report.json")
    assert sorted(path.name for path in (tmp_path / "new/out").iterdir()) == ["report.json", "report.md"]
    with pytest.raises(ConfigError, match=r"has the extension \.csv, expected \.json, \.md or a folder"):
        report.write(tmp_path / "report.csv")
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        report.write(tmp_path / "taken")
