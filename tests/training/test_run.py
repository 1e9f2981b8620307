"""Whole runs on a tiny encoder: they learn, resume to the bit, report, and stop where they must."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny import build_encoder

from simcse import ConfigError, DataError, ModelError, SentenceEncoder
from simcse.training.config import DataConfig, ModelConfig, TrainConfig
from simcse.training.run import train


def log_of(config: TrainConfig) -> list[dict[str, object]]:
    return [json.loads(line) for line in (Path(config.output_dir) / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_everything(config: TrainConfig) -> None:
    report = train(config)
    folder = Path(config.output_dir)
    assert {path.name for path in folder.iterdir()} == {"best", "config.yaml", "last", "log.jsonl", "report.json"}
    assert json.loads((folder / "report.json").read_text()) == report
    scores = report["tasks"]["dev.tsv"]
    assert scores["n"] == 64
    assert scores["spearman"] > report["before"]["spearman"] + 15
    assert report["geometry"].keys() == {"alignment", "uniformity"}
    losses = [line["loss"] for line in log_of(config) if "loss" in line]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert yaml.safe_load((folder / "config.yaml").read_text()) == config.as_dict()
    from simcse.data.pairs import read_scored_pairs
    from simcse.evaluation.pairs import evaluate_pairs

    best = SentenceEncoder.from_pretrained(folder / "best", device="cpu", dtype="fp32")
    again = evaluate_pairs(best.encode, read_scored_pairs(str(config.data.dev)))
    assert again.spearman == pytest.approx(scores["spearman"], abs=1e-3)


def test_the_start_says_what_max_length_cuts(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 40 lines of 1 to 10 words those of 5 and more are cut at 6 tokens, two of which are special: 24."""
    (tmp_path / "texts.txt").write_text("".join("the man " * (i % 5) + "the " * (i % 2 + 1) + "\n" for i in range(40)))
    train(replace(config, data=DataConfig(train=str(tmp_path / "texts.txt")), max_steps=1, max_length=6))
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("max_length 6 cuts ")]
    assert line == (
        "max_length 6 cuts 60.0 % of text (tokens: median 7, 95 % 12, longest 12) in 40 rows; "
        "max_length 16 cuts none of text"
    )


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("projection", "queue", "average"), [("train", 0, 0.9), ("always", 0, 0), ("train", 80, 0)])
@pytest.mark.parametrize(("killed_at", "first"), [(5, 5), (7, 7)])
def test_a_killed_run_goes_on_to_the_bit(
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    projection: str,
    queue: int,
    average: float,
    killed_at: int,
    first: int,
) -> None:
    """Dropout on. Killed behind step 5 it goes on from the save at step 4, behind step 7 from the evaluation at 6."""
    config = replace(config, model=replace(config.model, projection=projection, queue_size=queue))
    config = replace(config, optim=replace(config.optim, ema_decay=average))
    whole = replace(config, output_dir=config.output_dir + "-whole")
    train(whole)
    from simcse.training import trainer

    seen = trainer.seed_step

    def kill(seed: int, step: int) -> None:
        if step == killed_at + 1:
            raise KilledError
        seen(seed, step)

    monkeypatch.setattr(trainer, "seed_step", kill)
    with pytest.raises(KilledError):
        train(config)
    monkeypatch.setattr(trainer, "seed_step", seen)
    report = train(replace(config, resume="auto"))
    assert report["training"]["first_step"] == first
    steps = [line["step"] for line in log_of(config) if "loss" in line]
    assert steps == list(range(1, 13))
    losses = [[line["loss"] for line in log_of(run) if "loss" in line] for run in (config, whole)]
    assert losses[0] == losses[1]
    for kept in ("last", "best"):
        weights = [
            SentenceEncoder.from_pretrained(Path(run.output_dir) / kept, dtype="fp32").state_dict()
            for run in (config, whole)
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_resume_asks_for_the_same_run(config: TrainConfig) -> None:
    train(replace(config, max_steps=4))
    with pytest.raises(ConfigError, match=r"holds another run; go on with it by resume=auto"):
        train(config)
    with pytest.raises(ConfigError, match=r"^max_steps is 12, but the run in .* was started with 4"):
        train(replace(config, resume="auto"))
    with pytest.raises(ConfigError, match=r"^resume=.*nowhere: no trainer.pt there"):
        train(replace(config, resume="nowhere", output_dir=config.output_dir + "-2"))


def test_texts_need_dropout(config: TrainConfig, files: Path, tmp_path: Path) -> None:
    calm = build_encoder(tmp_path / "calm", dropout=0.0)
    config = replace(
        config,
        model=ModelConfig(name=str(calm), pooling="cls"),
        data=replace(config.data, train=str(files / "text.txt")),
    )
    with pytest.raises(ConfigError, match=r"^model\.dropout: the backbone has no active dropout"):
        train(config)
    assert not Path(config.output_dir).exists()
    train(replace(config, model=replace(config.model, dropout=0.1), max_steps=1))  # the remedy works


def test_triplets_and_an_always_head(config: TrainConfig, files: Path) -> None:
    config = replace(
        config,
        model=replace(config.model, projection="always"),
        data=replace(config.data, train=str(files / "triplets.csv")),
        hard_negative_weight=2.0,
        micro_batch_size=8,
    )
    report = train(config)
    assert report["tasks"]["dev.tsv"]["spearman"] > report["before"]["spearman"]
    assert SentenceEncoder.from_pretrained(Path(config.output_dir) / "best").projection is not None


def test_retrieval_evaluator(config: TrainConfig, files: Path) -> None:
    data = replace(config.data, dev=str(files / "queries.csv"), dev_corpus=str(files / "corpus.txt"))
    report = train(replace(config, data=data))
    scores = report["tasks"]["queries.csv"]
    assert scores.keys() == {"mrr@10", "recall@1", "recall@10", "n"}
    assert 0 <= scores["recall@1"] <= scores["mrr@10"] <= scores["recall@10"] <= 100
    wrong = replace(data, dev_corpus=str(files / "text.txt"))
    with pytest.raises(DataError, match=r"queries\.csv: row 1: its document is not among the 160"):
        train(replace(config, data=wrong, output_dir=config.output_dir + "-2"))


def test_best_is_the_lowest_where_lower_is_better(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator of one's own, whose error is least at step 6; step 0 is no trained encoder."""

    class Error:
        name, n, primary_metric, greater_is_better = "mine", 1, "error", False
        errors = iter((0.1, 0.3, 0.5))

        def __call__(self, encode: Callable[[list[str]], object]) -> dict[str, float]:
            return {"error": next(self.errors)}

    monkeypatch.setattr("simcse.training.build.build_evaluator", lambda data: Error())
    report = train(config)
    assert report["best_step"] == 6
    assert report["tasks"]["dev.tsv"] == {"error": 0.3, "n": 1}
    assert report["protocol"]["selection"] == "best of every 6 steps, by error on dev"


def test_a_loss_that_is_no_number_names_step_and_rows(config: TrainConfig, tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(tiny_bert, folder)
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["encoder.layer.1.output.LayerNorm.weight"][:] = 3e38  # finite, so that it loads; what it makes is not
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = replace(config, model=replace(config.model, name=str(folder)), data=replace(config.data, dev=None))
    with pytest.raises(ModelError, match=r"step 1: the loss is nan; rows \d+, .* \(32 in all\)"):
        train(config)


def test_precision_is_of_the_activations_only(config: TrainConfig) -> None:
    losses = {}
    for precision in ("bf16", "fp32"):
        run = replace(config, precision=precision, output_dir=f"{config.output_dir}-{precision}")
        train(run)
        losses[precision] = [line["loss"] for line in log_of(run) if "loss" in line]
        saved = SentenceEncoder.from_pretrained(Path(run.output_dir) / "best", dtype="fp32")
        assert (saved.encode(["the dog"]) * 512 % 1).any()  # weights of more digits than bf16 has
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.2)


def test_seeds_report_mean_and_spread(config: TrainConfig) -> None:
    config = replace(config, seeds=3, max_steps=3)
    summary = train(config)
    scores = summary["tasks"]["dev.tsv"]["spearman"]
    each = [summary["seeds"][f"seed-{seed}"]["dev.tsv"]["spearman"] for seed in (42, 43, 44)]
    assert scores["mean"] == pytest.approx(sum(each) / 3)
    assert (scores["min"], scores["max"]) == (min(each), max(each))
    assert scores["std"] == pytest.approx(torch.tensor(each, dtype=torch.float64).std().item())
    assert scores["low"] < scores["mean"] < scores["high"]
    assert len(set(each)) > 1  # seeds do make a difference
    shutil.rmtree(Path(config.output_dir) / "seed-44")
    assert train(replace(config, resume="auto"))["tasks"] == summary["tasks"]  # only the third is run again


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": DataConfig()}, ConfigError, r"^data\.train is empty"),
        ({"data": DataConfig(train="nowhere.txt")}, DataError, r"nowhere\.txt"),
        ({"batch_size": 129}, DataError, r"128 rows are fewer than batch_size=129"),
        ({"max_length": 65}, ConfigError, r"^max_length is 65: .* accepts at most 64 tokens"),
        (
            {"candidates": "in_bach"},
            ConfigError,
            r"^candidates is 'in_bach', expected one of .* did you mean 'in_batch'",
        ),
        ({"objective": "sofmax"}, ConfigError, r"objective.*'sofmax'"),
        ({"objective_args": {"smoothing": 0.1}}, ConfigError, r"softmax: unknown option 'smoothing'"),
        ({"precision": "fp16"}, ConfigError, r"^precision=fp16 needs an accelerator"),
        ({"trackers": ["tensorbord"]}, ConfigError, r"^trackers: 'tensorbord' .* did you mean 'tensorboard'"),
        ({"model": ModelConfig(name="./nowhere")}, ModelError, r"'\./nowhere': no such folder"),
        ({"seeds": 2, "resume": "x/last"}, ConfigError, r"^resume=x/last names one run"),
    ],
)
def test_wrong_options_leave_nothing_behind(
    config: TrainConfig, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        train(replace(config, **change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not Path(config.output_dir).exists()


@pytest.mark.parametrize("dev", [True, False], ids=["evaluated", "not evaluated"])
def test_weights_that_are_no_numbers_are_never_saved(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, dev: bool
) -> None:
    """The last loss is finite, and the update behind it is not: last/ stays that of step 4, best/ as it was."""
    from simcse.training import trainer

    seen = trainer.Trainer._set_rate

    def too_fast(self: trainer.Trainer) -> None:
        seen(self)
        if self.step == 6:
            self.optimizer.param_groups[0]["lr"] = float("inf")

    monkeypatch.setattr(trainer.Trainer, "_set_rate", too_fast)
    data = config.data if dev else replace(config.data, dev=None)
    folder = Path(config.output_dir)
    message = (
        r"step 6: \d+ of 37 weights are NaN or infinite \(.*, \.\.\.\); .*last still has an earlier step; lower optim"
    )
    with pytest.raises(ModelError, match=message) as caught:
        train(replace(config, data=data, max_steps=6))
    assert "\n" not in str(caught.value)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "last", "log.jsonl"}
    assert torch.load(folder / "last" / "trainer.pt")["step"] == 4
    assert SentenceEncoder.from_pretrained(folder / "last").encode("a dog").any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "data/wiki1m_for_simcse.txt"}, r"^data\.train=.*fetch it by simcse data sts --output data,.*own$"),
        ({"dev": "x/senteval/STS/STSBenchmark/sts-dev.csv"}, r"fetch it by simcse data sts --output x, .*"
         r"leave evaluation out: data\.dev=null data\.test=null$"),
        ({"test": "data/senteval"}, r"^data\.test=data/senteval: no such file or folder; fetch it by"),
    ],
)  # fmt: skip
def test_files_of_the_paper_that_are_missing_are_said_to_be_fetched(
    config: TrainConfig, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train(replace(config, data=replace(config.data, **options)))


@pytest.mark.skipif("SIMCSE_DATA" not in os.environ, reason="SIMCSE_DATA names no folder with SentEval's STS and SICK")
def test_the_report_says_what_of_the_test_sets_was_trained_on(config: TrainConfig, tmp_path: Path) -> None:
    from simcse.data.pairs import read_scored_pairs
    from simcse.display.summary import summary
    from simcse.evaluation.sts import SEVEN

    data = Path(os.environ["SIMCSE_DATA"]) / "senteval"
    seen = read_scored_pairs(data / "STS" / "STSBenchmark" / "sts-train.csv")
    rows = [f"{a}\t{b}\n" for a, b in zip(seen.a, seen.b, strict=True)]
    (tmp_path / "seen.tsv").write_text("anchor\tpositive\n" + "".join(rows))
    own = replace(config.data, train=str(tmp_path / "seen.tsv"), test=str(data), dev=None)
    report = train(replace(config, data=own, max_steps=1))
    scores = report["tasks"]["STS13"]
    assert scores["overlap"]["pairs"] == 595  # of 1,500
    assert scores["clean"]["n"] == 1500 - scores["overlap"]["near"]
    assert scores["clean"]["spearman"] != scores["spearman"]
    low, high = report["average_interval"]
    assert low < report["average"] < high
    ends = [report["tasks"][task]["intervals"]["spearman"] for task in SEVEN]
    assert high - low < min(high - low for low, high in ends)
    shown = summary(report)
    assert "unseen pairs" in shown
    assert max(map(len, shown.split("\nsearch:")[0].splitlines()[:-1])) <= 80
    card = (Path(config.output_dir) / "best" / "README.md").read_text()
    assert "## Test pairs in the training data" in card
    assert "| STS13 | 1,500 | 595 |" in card
