"""What a config asks of objectives: any of them, for any data, and one line for what cannot be had."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from simcse.errors import ConfigError, DataError, SimCSEError
from simcse.objectives import CANDIDATES, OBJECTIVES
from simcse.training.build import build_model
from simcse.training.build_data import build_batches
from simcse.training.build_loss import build_loss
from simcse.training.config import DataConfig, ModelConfig, SourceConfig, TrainConfig
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


def test_a_source_has_its_weight_where_there_is_no_other(tiny_bert: Path, files: Path, tmp_path: Path) -> None:
    losses = []
    for weight in (1.0, 3.0):
        output = tmp_path / str(weight)
        some = config(tiny_bert, Path(), output, log_every=1)
        some.data = DataConfig(sources=[SourceConfig(str(files / "2.csv"), weight=weight)])
        train(some)
        losses.append(json.loads((output / "log.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[1] == pytest.approx(3 * losses[0])


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
        ("1.csv", {"temperature": 0.0}, ConfigError, r"^temperature is 0\.0: must be above 0"),
        ("1.csv", {"temperature": -0.05}, ConfigError, r"^temperature is -0\.05"),
        ("1.csv", {"objective": "magrin"}, ConfigError, r"^objective is 'magrin'.*; did you mean 'margin'\?$"),
        ("1.csv", {"objective": "margin", "similarity": "dot"}, ConfigError, r"^objective=margin .*similarity"),
        ("1.csv", {"objective": "label_smoothed", "objective_args": {"smoothing": 1}}, ConfigError, "smoothing is 1"),
        ("1.csv", {"objective": "label_smoothed", "objective_args": {"smooth": 1}}, ConfigError, "'smooth'.*smoothing"),
        ("1.csv", {"objective": "margin", "objective_args": {"margin": 4.0}}, ConfigError, "margin is 4.0 radians"),
        (
            "1.csv",
            {"objective": "self_adversarial", "objective_args": {"adversarial_temperature": -1}},
            ConfigError,
            "adversarial_temperature is -1",
        ),
        ("1.csv", {"objective": "sampled_softmax", "augment": "crop"}, ConfigError, r"^objective=sampled_softmax"),
        ("1.csv", {"batch_size": 1}, ConfigError, r"^batch_size is 1: .* at least 2"),
        ("2.csv", {"batch_size": 1, "candidates": "all_views"}, ConfigError, r"^batch_size is 1: .* at least 2"),
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


QUERY, DOCUMENT = "two people plays the guitar with music and ", "red snow on the "


def prompted(model: Path, train: Path, prompts: dict[str, str], output: Path = Path("none")) -> TrainConfig:
    some = config(model, train, output)
    return dataclasses.replace(
        some,
        model=ModelConfig(str(model), pooling="mean", projection="none"),
        data=DataConfig(str(train), prompts=prompts),
    )


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_each_column_has_its_prompt(columns: int, include_prompt: bool, tiny_bert: Path, files: Path) -> None:
    """What is trained is what the encoder gives; `take` and `select` keep it, as queues and micro-batches need."""
    prompts = {"text": QUERY} if columns == 1 else {"query": QUERY, "document": DOCUMENT}
    some = prompted(tiny_bert, files / f"{columns}.csv", prompts)
    model = build_model(some).eval()
    model.encoder.include_prompt = include_prompt
    [batches] = build_batches(some, model.encoder, torch.device("cpu")).sources
    batch = batches.batch_of(0)
    with torch.no_grad():
        views = model(batch)  # (V, B, D)
        some_rows = model.stack(batch.tokens.select(2 * batch.views, 5 * batch.views), batch.views)
        seconds = model.stack(batch.tokens.take(range(1, len(batch.tokens), batch.views)), 1)
    rows = batches.dataset[batch.rows.tolist()]
    encode = [model.encoder.encode_query, *[model.encoder.encode_document] * 2]
    expected = [encode[i](rows[name], normalize=False) for i, name in enumerate(batches.columns)]
    np.testing.assert_allclose(views.numpy(), np.stack(expected), atol=1e-5)
    np.testing.assert_allclose(some_rows.numpy(), views.numpy()[:, 2:5], atol=1e-5)
    np.testing.assert_allclose(seconds.numpy()[0], views.numpy()[1], atol=1e-5)


def test_the_checkpoints_own_prompts_are_trained_with(tiny_bert: Path, files: Path, tmp_path: Path) -> None:
    from simcse import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="fp32")
    encoder.prompts = {"query": QUERY, "passage": DOCUMENT}
    folder = encoder.save_pretrained(tmp_path / "e5")
    for prompts, expected in (
        ({}, [QUERY, DOCUMENT]),
        ({"query": ""}, ["", DOCUMENT]),
        ({"document": "a "}, [QUERY, "a "]),
    ):
        some = prompted(folder, files / "2.csv", prompts)
        [batches] = build_batches(some, build_model(some).encoder, torch.device("cpu")).sources
        assert [tokenize.prompt for tokenize in batches.tokenize] == expected


def test_the_trained_encoder_has_its_prompts(tiny_bert: Path, files: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from simcse import SentenceEncoder

    train(prompted(tiny_bert, files / "2.csv", {"query": QUERY, "document": DOCUMENT}, tmp_path / "pairs"))
    best = SentenceEncoder.from_pretrained(tmp_path / "pairs/best", device="cpu", dtype="fp32")
    assert best.prompts == {"query": QUERY, "document": DOCUMENT}
    peer = SentenceTransformer(str(tmp_path / "pairs/best"), device="cpu")
    for name in ("encode_query", "encode_document", "encode"):
        ours, theirs = (getattr(encoder, name)(["a dog", "the cat runs"]) for encoder in (best, peer))
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    train(prompted(tiny_bert, files / "1.csv", {"text": QUERY}, tmp_path / "texts"))
    best = SentenceEncoder.from_pretrained(tmp_path / "texts/best", device="cpu", dtype="fp32")
    assert best.resolve_prompt() == best.resolve_prompt(role="query") == QUERY


def test_prompts_that_do_not_fit(tiny_bert: Path, files: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.prompts: found querry: 'q', expected .*did you mean 'query'"):
        checked_config({"querry": "q"})
    with pytest.raises(ConfigError, match=r"^data\.prompts: found query: 3, expected text, query, document"):
        checked_config({"query": 3})  # type: ignore[dict-item]
    for columns, prompts, message in (
        (1, {"query": "q"}, r"found query, but .*1\.csv has 1 column, expected text"),
        (2, {"text": "q"}, r"found text, but .*2\.csv has 2 columns, expected query and document"),
        (2, {"query": "a " * 40}, r"the prompt 'a a .* max_length is 32"),
    ):
        some = prompted(tiny_bert, files / f"{columns}.csv", prompts)
        with pytest.raises(ConfigError, match=message):
            build_batches(some, build_model(some).encoder, torch.device("cpu"))


def checked_config(prompts: dict[str, str]) -> TrainConfig:
    return TrainConfig(data=DataConfig(prompts=prompts))
