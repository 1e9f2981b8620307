"""Several sources, scored pairs and teachers in one run: the loss is the sum of its parts, and a run resumes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simcse import SentenceEncoder
from simcse.data.collate import Batch
from simcse.errors import ConfigError, DataError, ModelError
from simcse.objectives import InBatchCandidates
from simcse.training.build import add_map, build_model
from simcse.training.build_data import build_batches
from simcse.training.build_loss import build_criterion, build_loss
from simcse.training.config import TrainConfig
from simcse.training.run import train

ROWS = 24


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    texts = (sentences * 9)[: 4 * ROWS]
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    (folder / "text.txt").write_text("\n".join(texts[:ROWS]) + "\n")
    for name, width, header in (("pairs.tsv", 2, "anchor\tpositive"), ("triplets.tsv", 3, "sent0\tsent1\thard_neg")):
        rows = ["\t".join(texts[row + ROWS * place] for place in range(width)) for row in range(ROWS)]
        (folder / name).write_text("\n".join([header, *rows]) + "\n")
    (folder / "groups.tsv").write_text(
        "a\tb\tc\n" + "".join("\t".join(texts[row + ROWS * place] for place in range(3)) + "\n" for row in range(ROWS))
    )
    (folder / "scored.tsv").write_text(
        "".join(f"{texts[row]}\t{texts[row + ROWS]}\t{row % 6}\n" for row in range(ROWS))
    )
    return folder


@pytest.fixture(scope="module")
def teacher(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another encoder than the student."""
    torch.manual_seed(7)
    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return encoder.save_pretrained(tmp_path_factory.mktemp("teacher") / "one")


SOURCES: list[dict[str, Any]] = [
    {"train": "triplets.tsv", "share": 2.0},
    {"train": "groups.tsv", "rows": "any_two", "share": 1.0, "weight": 0.5},
    {"train": "text.txt", "share": 1.0},
    {"train": "scored.tsv", "rows": "scored", "share": 1.0},
]


def config(model: Path, files: Path, output: Path, /, **options: Any) -> TrainConfig:
    sources = [source | {"train": str(files / source["train"])} for source in options.pop("sources", SOURCES)]
    given = {"batch_size": 8, "max_steps": 6, "save_every": 3, "precision": "fp32", "output_dir": str(output)}
    model_options = {"name": str(model), "pooling": "mean", "projection": "none"} | options.pop("model", {})
    return TrainConfig(model=model_options, data={"sources": sources}, **(given | options))  # type: ignore[arg-type]


def built(some: TrainConfig) -> tuple[Any, Any, Any]:
    model = build_model(some)
    batches = build_batches(some, model.encoder, torch.device("cpu"))
    add_map(some, model, batches, resumed=False)
    return model.eval(), batches, build_criterion(some, model.dimension)


def test_each_source_has_its_own_loss_and_weight(tiny_bert: Path, files: Path, tmp_path: Path) -> None:
    some = config(tiny_bert, files, tmp_path / "run")
    model, batches, criterion = built(some)
    seen = {}
    for step in range(5):
        batch = batches.batch_of(step)
        views = model(batch)
        seen[batch.source] = (float(criterion(views, batch).detach()), views, batch)
    assert sorted(seen) == [0, 1, 2, 3]
    for number, weight in ((0, 1.0), (1, 0.5), (2, 1.0)):
        loss, views, batch = seen[number]
        assert loss == pytest.approx(weight * float(build_loss(some)(views, batch).detach()), rel=1e-6)
    loss, views, batch = seen[3]
    cosines = torch.nn.functional.cosine_similarity(views[0], views[1], dim=-1) / some.temperature
    gaps = [cosines[j] - cosines[i] for i in range(8) for j in range(8) if batch.scores[i] > batch.scores[j]]
    assert loss == pytest.approx(float(torch.stack([*gaps, torch.zeros(())]).logsumexp(0).detach()), rel=1e-5)


@pytest.mark.parametrize("loss", ["kl", "margin_mse", "l2", "cosine"])
def test_the_teachers_loss_stands_beside_the_sources(
    loss: str, tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path
) -> None:
    options = {"name": [str(teacher)], "loss": loss, "weight": 0.3, "cache": str(tmp_path / "cache")}
    some = config(tiny_bert, files, tmp_path / "run", teacher=options, sources=SOURCES[:1])
    model, batches, criterion = built(some)
    batch = batches.batch_of(0)
    table = batches.sources[0].dataset[batch.rows.tolist()]
    known = SentenceEncoder.from_pretrained(teacher, device="cpu")
    expected = np.stack([known.encode(table[name]) for name in ("anchor", "positive", "hard_negative")])
    np.testing.assert_allclose(batch.teacher.numpy(), expected, atol=1e-5)
    assert model.map is None  # the dimensions are equal
    views = model(batch)
    own, whole = build_loss(some)(views, batch), criterion(views, batch)
    without = dataclasses.replace(criterion, sources=[None])(views, batch)
    assert float(whole.detach()) == pytest.approx(float(own.detach()) + float(without.detach()), rel=1e-5)
    [gradient] = torch.autograd.grad(without, views)
    assert gradient.abs().sum((1, 2)).gt(0).all()  # every view learns


def test_the_cosines_of_several_teachers_are_averaged(
    tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path
) -> None:
    names = [str(teacher), str(tiny_bert)]
    options = {"name": names, "cache": str(tmp_path / "cache")}
    some = config(tiny_bert, files, tmp_path / "run", teacher=options, sources=SOURCES[1:2])
    batch: Batch = built(some)[1].batch_of(0)
    assert batch.teacher is not None
    own = [{"name": [name], "cache": str(tmp_path / "cache")} for name in names]
    alone = [built(dataclasses.replace(some, teacher=one))[1].batch_of(0).teacher for one in own]  # type: ignore[arg-type]

    def cosines(vectors: Tensor) -> Tensor:
        return vectors[0] @ vectors[1].T

    torch.testing.assert_close(cosines(batch.teacher), (cosines(alone[0]) + cosines(alone[1])) / 2)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 6  # three columns by two teachers, each computed once


def test_a_map_leads_to_a_teacher_of_another_dimension(
    tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path
) -> None:
    """It begins as the best linear map, is trained, and is no part of the saved encoder."""
    options = {"name": [str(teacher), str(tiny_bert)], "loss": "l2", "cache": str(tmp_path / "cache")}
    sources = [SOURCES[0] | {"loss": "none"}]
    some = config(
        tiny_bert, files, tmp_path / "run", teacher=options, sources=sources, max_steps=20, optim={"lr": 1e-3}
    )
    model, batches, criterion = built(some)
    batch = batches.batch_of(0)
    views = model(batch)
    assert views.shape[-1] == model.dimension + batch.teacher.shape[-1]
    fitted = float(criterion(views, batch).detach())
    with torch.no_grad():
        model.map.weight.normal_()
    assert fitted < float(criterion(model(batch), batch).detach())
    assert fitted < 1  # 1 is the distance of 0 from a unit vector
    train(some)
    trained = SentenceEncoder.from_pretrained(tmp_path / "run" / "best", device="cpu")
    assert trained.projection is None


@pytest.mark.parametrize(("micro", "two_encoders"), [(None, False), (3, True)])
def test_a_killed_run_goes_on_bit_for_bit(
    micro: int | None, two_encoders: bool, tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path
) -> None:
    options = {"name": [str(teacher), str(tiny_bert)], "loss": "l2", "cache": str(tmp_path / "cache")}
    model = {"two_encoders": two_encoders}
    whole = config(tiny_bert, files, tmp_path / "whole", teacher=options, micro_batch_size=micro, model=model, seed=5)
    train(whole)
    half = dataclasses.replace(whole, output_dir=str(tmp_path / "half"))
    stopped_after(half, 3)
    train(dataclasses.replace(half, resume="auto"))
    one, other = (SentenceEncoder.from_pretrained(tmp_path / name / "best", device="cpu") for name in ("whole", "half"))
    for (name, weight), same in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert weight.equal(same), name


def test_another_teacher_is_another_run(tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path) -> None:
    copy = tmp_path / "teacher"
    SentenceEncoder.from_pretrained(teacher, device="cpu").save_pretrained(copy)
    options = {"name": [str(copy)], "cache": str(tmp_path / "cache")}
    some = config(tiny_bert, files, tmp_path / "run", teacher=options, max_steps=4)
    stopped_after(some, 3)
    SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu").save_pretrained(copy)
    with pytest.raises(DataError, match=r"teacher: holds other content than the run in .* was started"):
        train(dataclasses.replace(some, resume="auto"))


def test_the_cache_may_lie_elsewhere_on_resuming(tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path) -> None:
    options = {"name": [str(teacher)], "cache": str(tmp_path / "cache")}
    some = config(tiny_bert, files, tmp_path / "run", teacher=options, max_steps=4)
    stopped_after(some, 3)
    train(dataclasses.replace(some, resume="auto", teacher=options | {"cache": str(tmp_path / "moved")}))
    assert {file.name for file in (tmp_path / "moved").glob("*.npy")} == {
        file.name for file in (tmp_path / "cache").glob("*.npy")
    }


def test_a_row_without_negatives_is_named_under_a_teacher_too(tiny_bert: Path, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "same.txt").write_text("one line\n" * ROWS)
    options = {"name": [str(teacher)], "cache": str(tmp_path / "cache")}
    some = config(
        tiny_bert, tmp_path, tmp_path / "run", teacher=options, sources=[{"train": "same.txt", "loss": "none"}]
    )
    with pytest.raises(DataError, match=r"same\.txt: row \d+ has no valid negative"):
        train(some)


def stopped_after(some: TrainConfig, steps: int) -> None:
    """The run until its last/ holds that step, as if it had been killed then."""
    from simcse.training.build import build_accelerator, build_trainer

    trainer = build_trainer(some, build_accelerator(some))
    trainer.evaluate()

    class Killed(BaseException):
        pass

    def stop() -> int:
        if trainer.step > steps:
            raise Killed
        return 0

    with pytest.raises(Killed):
        trainer.train(stop=stop)
    trainer.run.close()


def test_a_guide_masks_what_may_be_right(tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path) -> None:
    options = {"name": [str(teacher)], "loss": "none", "mask_margin": 0.0, "cache": str(tmp_path / "cache")}
    some = config(tiny_bert, files, tmp_path / "run", teacher=options, sources=SOURCES[:1])
    model, batches, criterion = built(some)
    batch = batches.batch_of(0)
    views = model(batch)
    guide = InBatchCandidates(1.0)(batch.teacher)
    logits = InBatchCandidates(some.temperature)(views, keys=batch.keys)
    total, masked = 0.0, 0
    for row in range(8):
        y = int(logits.target[row])
        theirs = guide.logits[row]
        negatives = [c for c in range(len(theirs)) if bool(logits.negatives[row, c])]
        kept = [c for c in negatives if theirs[c] <= theirs[y]] or [min(negatives, key=lambda c: float(theirs[c]))]
        masked += len(negatives) - len(kept)
        total += float((logits.logits[row, [y, *kept]].logsumexp(0) - logits.logits[row, y]).detach())
    assert masked > 0
    assert float(criterion(views, batch).detach()) == pytest.approx(total / 8, rel=1e-5)


def test_matryoshka_is_the_mean_over_the_first_dimensions(
    tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path
) -> None:
    options = {"name": [str(teacher)], "cache": str(tmp_path / "cache")}
    some = config(tiny_bert, files, tmp_path / "run", teacher=options, sources=SOURCES[:1], matryoshka=[4, 16])
    model, batches, criterion = built(some)
    batch = batches.batch_of(0)
    views = model(batch)
    plain = built(dataclasses.replace(some, matryoshka=[]))[2]
    expected = [float(plain(views[..., :kept], batch).detach()) for kept in (4, 16)]
    assert float(criterion(views, batch).detach()) == pytest.approx(sum(expected) / 2, rel=1e-6)
    with pytest.raises(ConfigError, match=r"matryoshka: found 999 dimensions, but the vectors of .* have"):
        built(dataclasses.replace(some, matryoshka=[4, 999]))


def test_the_report_has_a_score_for_each_number_of_dimensions(tiny_bert: Path, files: Path, tmp_path: Path) -> None:
    from simcse.display.summary import summary

    dev = {"sources": [SOURCES[0] | {"train": str(files / "triplets.tsv")}], "dev": str(files / "scored.tsv")}
    some = dataclasses.replace(config(tiny_bert, files, tmp_path / "run"), data=dev, matryoshka=[4, 16])
    report = train(some)
    whole = report["tasks"]["scored.tsv"]["spearman"]
    assert list(report["dimensions"]) == ["4", "16"]
    short = SentenceEncoder.from_pretrained(tmp_path / "run" / "best", truncate_dim=4, dtype="fp32", device="cpu")
    from simcse.data.pairs import read_scored_pairs
    from simcse.evaluation.evaluators import ScoredPairsEvaluator

    expected = ScoredPairsEvaluator(read_scored_pairs(files / "scored.tsv"))(short.encode)["spearman"]
    assert report["dimensions"]["4"] == pytest.approx(expected, abs=1e-6)
    assert report["dimensions"]["4"] != whole
    assert "first 4 dimensions" in summary(report)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": {"train": "a.txt", "sources": [{"train": "b.txt"}]}}, ConfigError, "stands in place of data.train"),
        ({"data": {"sources": [{}]}}, ConfigError, r"data\.sources\[0\]\.train is empty"),
        ({"data": {"sources": [{"train": "a", "share": 1.0}, {"train": "b"}]}}, ConfigError, "all or none"),
        ({"data": {"sources": [{"train": "a", "loss": "angle"}]}}, ConfigError, "does not go with rows=roles"),
        ({"data": {"sources": [{"train": "a", "loss": "none"}]}}, ConfigError, "nothing would be learned"),
        ({"data": {"sources": [{"train": "a", "wieght": 1.0}]}}, ConfigError, r"did you mean weight=\.\.\.\?"),
        ({"data": {"sources": ["a.txt"]}}, ConfigError, r"data\.sources\[0\]: found 'a\.txt', expected SourceConfig"),
        ({"teacher": {"mask_margin": 0.1}}, ConfigError, r"teacher\.mask_margin needs teacher\.name"),
        ({"teacher": {"name": ["t"], "loss": "none"}}, ConfigError, "would do nothing"),
        ({"teacher": {"name": ["t"], "loss": "l2"}, "matryoshka": [4]}, ConfigError, "needs all dimensions"),
        ({"teacher": {"loss": "k"}}, ConfigError, "did you mean 'kl'"),
        ({"data": {"sources": [{"train": "a"}]}, "model": {"queue_size": 8}}, ConfigError, "data.train alone"),
    ],
)
def test_what_does_not_fit_is_told(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TrainConfig(**options)


def test_a_source_is_named_where_it_is_wrong(tiny_bert: Path, files: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"scored\.tsv: 24 rows are fewer than batch_size=32"):
        train(config(tiny_bert, files, tmp_path / "run", sources=SOURCES[3:], batch_size=32))
    with pytest.raises(ModelError, match="no such folder"):
        train(config(tiny_bert, files, tmp_path / "run", teacher={"name": ["./none"]}))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("loss", ["kl", "margin_mse", "l2", "cosine"])
def test_texts_learned_from_the_teacher_alone_are_encoded_once(
    loss: str, tiny_bert: Path, teacher: Path, files: Path, tmp_path: Path
) -> None:
    """One view a text, and by kl each text's distribution over the others."""
    options = {"name": [str(teacher)], "loss": loss, "cache": str(tmp_path / "cache")}
    sources = [{"train": "text.txt", "loss": "none"}]
    some = config(tiny_bert, files, tmp_path / "run", teacher=options, sources=sources, temperature=0.1)
    model, batches, criterion = built(some)
    batch = batches.batch_of(0)
    assert (len(batch.tokens), batch.views, batch.teacher.shape[0]) == (8, 1, 1)
    views = model(batch)
    loss_of_views = float(criterion(views, batch).detach())
    if loss == "kl":
        others = ~torch.eye(8, dtype=torch.bool)
        unit = torch.nn.functional.normalize(views[0].detach(), dim=-1)
        log_q = ((unit @ unit.T) / 0.1)[others].view(8, 7).log_softmax(-1)
        log_p = ((batch.teacher[0] @ batch.teacher[0].T) / 0.05)[others].view(8, 7).log_softmax(-1)
        assert loss_of_views == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-5)
    train(some)
    assert (tmp_path / "run" / "best" / "simcse.json").is_file()
