"""The paper's variants: one mask for both views, two encoders, augmented positives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from simcse.data.collate import Batch
from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError
from simcse.objectives import InBatchCandidates, keep_negatives
from simcse.tokens.batch import TokenBatch
from simcse.training.build import build_model
from simcse.training.build_data import build_batches
from simcse.training.build_loss import build_loss
from simcse.training.config import DataConfig, ModelConfig, TrainConfig
from simcse.training.model import ContrastiveModel
from simcse.training.run import train
from simcse.training.trainer import seed_step

SEQUENCES = [[2, 50, 51, 3], [2, 50, 51, 3], [2, 60, 3], [2, 60, 3], [2, 70, 71, 72, 3], [2, 70, 71, 72, 3]]


def rows_of(sequences: list[list[int]], views: int) -> Batch:
    """A batch whose rows are the sequences, `views` side by side each."""
    rows = len(sequences) // views
    return Batch(TokenBatch.from_lists(sequences), views, np.arange(rows), torch.arange(rows).expand(views, -1))


def build(folder: Path, **options: bool) -> ContrastiveModel:
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32")
    return ContrastiveModel(encoder, "train", **options).train()


def config(folder: Path, data: Path, output: Path, **options: object) -> TrainConfig:
    model = {
        key: options.pop(key)
        for key in ("two_encoders", "fixed_dropout_mask", "dropout", "queue_size")
        if key in options
    }
    source = {key: options.pop(key) for key in ("augment", "synonyms") if key in options}
    return TrainConfig(
        model=ModelConfig(str(folder), **model),  # type: ignore[arg-type]
        data=DataConfig(str(data), **source),  # type: ignore[arg-type]
        output_dir=str(output),
        precision="fp32",
        batch_size=8,
        log_every=1,
        **{"max_steps": 2, **options},  # type: ignore[arg-type]
    )


@pytest.fixture
def text_file(tmp_path: Path, sentences: list[str]) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences) + "\n")
    return path


def test_under_one_mask_both_views_are_equal_and_dropout_is_at_work(tiny_bert: Path) -> None:
    model, batch = build(tiny_bert, fixed_dropout_mask=True), rows_of(SEQUENCES, 2)
    views = model(batch)
    assert views.shape == (2, 3, 32)
    assert torch.equal(views[0], views[1])
    assert not torch.equal(model(batch), views)


def test_one_mask_has_the_gradient_of_two_passes_under_the_same_random_state(tiny_bert: Path) -> None:
    weights = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    once, twice = build(tiny_bert, fixed_dropout_mask=True), build(tiny_bert)
    twice.load_state_dict(once.state_dict())
    first = TokenBatch.from_lists(SEQUENCES[::2])
    torch.manual_seed(5)
    (once(rows_of(SEQUENCES, 2)) * weights).sum().backward()
    for part in weights:
        torch.manual_seed(5)
        (twice.stack(first, 1)[0] * part).sum().backward()
    for mine, theirs in zip(once.parameters(), twice.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_the_second_encoder_starts_equal_and_makes_the_other_views(tiny_bert: Path) -> None:
    model = build(tiny_bert, two_encoders=True).eval()
    assert model.second is not None
    batch = rows_of(SEQUENCES, 2)
    views = model(batch)
    torch.testing.assert_close(views[0], views[1], atol=1e-6, rtol=1e-5)
    for parameter in model.second.parameters():
        torch.nn.init.zeros_(parameter)
    changed = model(batch)
    torch.testing.assert_close(changed[0], views[0])
    assert not torch.allclose(changed[1], views[1])
    own = {id(parameter) for parameter in model.encoder.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in model.second.parameters())


def test_the_second_encoder_makes_hard_negatives_too(tiny_bert: Path) -> None:
    """Three views: positive and hard negative of each row are what the second encoder makes of views 1 and 2."""
    model = build(tiny_bert, two_encoders=True).eval()
    assert model.second is not None
    torch.nn.init.normal_(model.second.encoder.backbone.embeddings.word_embeddings.weight)
    views = model(rows_of(SEQUENCES, 3))  # (3, 2, D)
    assert views.shape == (3, 2, 32)
    for view in (1, 2):
        alone = model.second.stack(TokenBatch.from_lists(SEQUENCES[view::3]), 1)[0]
        torch.testing.assert_close(views[view], alone, atol=1e-5, rtol=1e-4)


def test_two_encoders_are_trained_apart_and_resume(tiny_bert: Path, tmp_path: Path, text_file: Path) -> None:
    """A run killed behind its third step ends with the weights of both encoders as if it had never stopped."""
    options: dict[str, object] = {"two_encoders": True, "max_steps": 4, "save_every": 2}
    whole, killed = (config(tiny_bert, text_file, tmp_path / name, **options) for name in ("whole", "killed"))
    train(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simcse.training.trainer.seed_step", killed_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(killed)
    train(replace(killed, resume="auto"))
    states = [torch.load(Path(run.output_dir) / "last/trainer.pt", weights_only=True) for run in (whole, killed)]
    saved = [
        SentenceEncoder.from_pretrained(Path(run.output_dir) / "last", device="cpu", dtype="fp32").state_dict()
        for run in (whole, killed)
    ]
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])
    assert all(torch.equal(states[0]["second"][key], states[1]["second"][key]) for key in states[0]["second"])
    assert any(not torch.equal(saved[0][key], states[0]["second"][f"encoder.{key}"]) for key in saved[0])


def test_contrastive_tension_is_the_logistic_loss_of_two_encoders(tiny_bert: Path, text_file: Path) -> None:
    """Row i: -log sigmoid(f(x_i) . g(x_i)) - sum over 3 random others of log sigmoid(-f(x_i) . g(x_j)); a plain loop.

    Which three are kept shows in the gradient: those of the other vectors of g are zero.
    """
    run = config(
        tiny_bert, text_file, Path("none"), two_encoders=True, objective="negative_sampling", similarity="dot",
        temperature=1.0, num_negatives=3,
    )  # fmt: skip
    batch = build_batches(run, build_model(run).encoder, torch.device("cpu")).batch_of(0)
    views = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0)).double()
    torch.manual_seed(1)
    loss = build_loss(run)(views, batch)
    torch.manual_seed(1)
    row_losses = []
    for i, kept in enumerate(keep_negatives(InBatchCandidates(similarity="dot", temperature=1.0)(views), 3).valid):
        others = [j for j in range(8) if j != i and kept[j]]
        assert len(others) == 3
        positive = -F.logsigmoid(views[0, i] @ views[1, i])
        row_losses.append(positive - sum(F.logsigmoid(-views[0, i] @ views[1, j]) for j in others))
    torch.testing.assert_close(loss, torch.stack(row_losses).mean())


def test_negatives_are_drawn_anew_each_step_and_alike_in_parts(
    tiny_bert: Path, tmp_path: Path, text_file: Path
) -> None:
    """The same run in micro batches has the same losses, random negatives and all."""
    options: dict[str, object] = {
        "num_negatives": 2,
        "two_encoders": True,
        "objective": "negative_sampling",
        "dropout": 0.0,
    }
    for name, size in (("whole", None), ("parts", 3)):
        train(config(tiny_bert, text_file, tmp_path / name, micro_batch_size=size, **options))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != losses[0][1]


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 7), ({"candidates": "symmetric"}, 7), ({"candidates": "all_views"}, 14), ({"queue_size": 20}, 27)],
)
def test_more_negatives_than_there_are(
    options: dict[str, object], most: int, tiny_bert: Path, tmp_path: Path, text_file: Path
) -> None:
    build_batches(config(tiny_bert, text_file, tmp_path, num_negatives=most, **options), *encoder_on_cpu(tiny_bert))
    with pytest.raises(ConfigError, match=rf"^num_negatives is {most + 1}, but a row has {most} at most"):
        build_batches(
            config(tiny_bert, text_file, tmp_path, num_negatives=most + 1, **options), *encoder_on_cpu(tiny_bert)
        )
    with pytest.raises(ConfigError, match=r"^num_negatives is 0: at least 1"):
        config(tiny_bert, text_file, tmp_path, num_negatives=0)


def encoder_on_cpu(folder: Path) -> tuple[SentenceEncoder, torch.device]:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32"), torch.device("cpu")


def killed_at(last: int) -> Callable[[int, int], None]:
    """In place of `seed_step`: the same, but the process ends at a step."""

    def seed(run_seed: int, step: int) -> None:
        if step == last:
            raise KeyboardInterrupt
        seed_step(run_seed, step)

    return seed


def test_an_augmented_run_needs_no_dropout(tiny_bert: Path, tmp_path: Path, text_file: Path) -> None:
    table = tmp_path / "table.txt"
    table.write_text("cat\tdog\nman\twoman\n")
    for kind in ("crop", "delete_one", "mask", "synonym"):
        synonyms = str(table) if kind == "synonym" else None
        train(config(tiny_bert, text_file, tmp_path / kind, augment=kind, synonyms=synonyms, dropout=0.0))
        lines = (tmp_path / kind / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_one_mask_allows_what_would_else_teach_nothing(tiny_bert: Path, tmp_path: Path, text_file: Path) -> None:
    with pytest.raises(ConfigError, match="no active dropout"):
        train(config(tiny_bert, text_file, tmp_path / "a", dropout=0.0))
    train(config(tiny_bert, text_file, tmp_path / "b", dropout=0.0, fixed_dropout_mask=True))
    assert (tmp_path / "b" / "report.json").is_file()


def test_two_encoders_need_no_dropout(tiny_bert: Path, tmp_path: Path, text_file: Path) -> None:
    """What makes their views of a text differ is that they are two."""
    train(config(tiny_bert, text_file, tmp_path / "a", dropout=0.0, two_encoders=True))
    assert (tmp_path / "a" / "report.json").is_file()


def test_options_that_do_not_go_with_the_data(tiny_bert: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("anchor,positive\n" + "a cat,a dog\n" * 9)
    with pytest.raises(ConfigError, match=r"crop makes positives of single texts, but .* has 2 columns"):
        train(config(tiny_bert, pairs, tmp_path / "b", augment="crop"))
    with pytest.raises(ConfigError, match=r"^model\.fixed_dropout_mask makes positives of single texts"):
        train(config(tiny_bert, pairs, tmp_path / "b", fixed_dropout_mask=True))
    assert not (tmp_path / "b").exists()
