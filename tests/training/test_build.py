"""What a config asks of objectives: any of them, for any data, and one line for what cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from simcse.errors import ConfigError, DataError, SimCSEError
from simcse.objectives import CANDIDATES, OBJECTIVES
from simcse.training.build import build_batches, build_loss, build_model
from simcse.training.config import DataConfig, ModelConfig, TrainConfig
from simcse.training.run import train

ROWS = 24


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """Texts, pairs and triplets; the last texts and answers come twice."""
    folder = tmp_path_factory.mktemp("files")
    for count, name in ((1, "text"), (2, "anchor,positive"), (3, "sent0,sent1,hard_neg")):
        rows = [",".join(sentences[i % 20 + k] for k in range(count)) for i in range(ROWS)]
        (folder / f"{count}.csv").write_text("\n".join([name, *rows]) + "\n")
    (folder / "same.txt").write_text("the same line\n" * ROWS)
    return folder


def config(model: Path, train: Path, output: Path = Path("none"), **options: object) -> TrainConfig:
    augment = str(options.pop("augment", "none"))
    return TrainConfig(
        model=ModelConfig(str(model)),
        data=DataConfig(str(train), augment=augment),  # type: ignore[arg-type]
        output_dir=str(output),
        precision="fp32",
        **{"batch_size": 8, "max_steps": 1, **options},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_any_objective_on_any_candidates_for_any_data(columns: int, tiny_bert: Path, files: Path) -> None:
    """27 combinations for each kind of file: a finite loss, and a gradient for every view."""
    some = config(tiny_bert, files / f"{columns}.csv", objective="sampled_softmax")
    encoder = build_model(some).encoder
    batch = build_batches(some, encoder, torch.device("cpu")).batch_of(0)
    assert batch.log_frequency is not None
    seen: dict[str, Tensor] = {}
    for objective in OBJECTIVES:
        for candidates in CANDIDATES:
            views = torch.randn(batch.views, 8, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
            run = config(tiny_bert, files / "1.csv", objective=objective, candidates=candidates)
            loss = build_loss(run)(views, batch)
            loss.backward()
            assert torch.isfinite(loss), (objective, candidates)
            assert views.grad is not None
            assert views.grad.abs().sum((1, 2)).gt(0).all(), (objective, candidates)
            seen[f"{objective}, {candidates}"] = loss.detach()
    assert len({round(float(loss), 5) for loss in seen.values()}) > 20  # not all the same loss under other names


def test_counts_come_from_the_training_file(tiny_bert: Path, files: Path) -> None:
    some = config(tiny_bert, files / "3.csv", objective="backward_corrected", batch_size=ROWS)
    batch = build_batches(some, build_model(some).encoder, torch.device("cpu")).batch_of(0)
    assert batch.log_frequency is not None
    twice = torch.tensor([row % 20 < 4 for row in batch.rows.tolist()])  # rows 0-3 come again as 20-23
    torch.testing.assert_close(
        batch.log_frequency.exp() * ROWS, torch.where(twice, 2.0, 1.0).expand(3, -1), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("file", "options", "error", "message"),
    [
        ("1.csv", {"temperature": 0.0}, ConfigError, r"^--temperature is 0\.0: must be above 0"),
        ("1.csv", {"temperature": -0.05}, ConfigError, r"^--temperature is -0\.05"),
        ("1.csv", {"objective": "magrin"}, ConfigError, r"^--objective is 'magrin'.*; did you mean 'margin'\?$"),
        ("1.csv", {"objective": "margin", "similarity": "dot"}, ConfigError, r"^--objective margin .*--similarity"),
        ("1.csv", {"objective": "label_smoothed", "objective_args": {"smoothing": 1}}, ConfigError, "smoothing is 1"),
        ("1.csv", {"objective": "label_smoothed", "objective_args": {"smooth": 1}}, ConfigError, "'smooth'.*smoothing"),
        ("1.csv", {"objective": "margin", "objective_args": {"margin": 4.0}}, ConfigError, "margin is 4.0 radians"),
        (
            "1.csv",
            {"objective": "self_adversarial", "objective_args": {"adversarial_temperature": -1}},
            ConfigError,
            "adversarial_temperature is -1",
        ),
        ("1.csv", {"objective": "sampled_softmax", "augment": "crop"}, ConfigError, r"^--objective sampled_softmax"),
        ("1.csv", {"batch_size": 1}, ConfigError, r"^--batch_size is 1: .* at least 2"),
        ("2.csv", {"batch_size": 1, "candidates": "all_views"}, ConfigError, r"^--batch_size is 1: .* at least 2"),
    ],
)
def test_wrong_options_end_before_anything_is_written(
    file: str,
    options: dict[str, object],
    error: type[SimCSEError],
    message: str,
    tiny_bert: Path,
    files: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        train(config(tiny_bert, files / file, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_one_triplet_is_a_batch(tiny_bert: Path, files: Path, tmp_path: Path) -> None:
    """Its hard negative is a negative."""
    train(config(tiny_bert, files / "3.csv", tmp_path / "run", batch_size=1))
    assert (tmp_path / "run" / "report.json").is_file()


@pytest.mark.parametrize("candidates", ["in_batch", "all_views"])
def test_a_row_without_a_negative_is_named_as_the_file_has_it(
    candidates: str, tiny_bert: Path, files: Path, tmp_path: Path
) -> None:
    some = config(tiny_bert, files / "same.txt", tmp_path / "run", candidates=candidates)
    row = 1 + build_batches(some, build_model(some).encoder, torch.device("cpu")).batch_of(0).rows[0]
    with pytest.raises(DataError, match=rf"same\.txt: row {row} has no valid negative among its \d+ candidates"):
        train(some)
