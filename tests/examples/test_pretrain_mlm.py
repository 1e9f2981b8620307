"""Masked language modelling on a tiny language: it learns, goes on to the bit, and opens as an encoder."""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM

from simcse import SentenceEncoder
from simcse.console import run

FOLDER = Path(__file__).parents[2] / "examples" / "pretrain_mlm"
NAMES = ("corpus", "masking", "pretrain")
ANIMALS = ["cat", "dog", "horse", "sparrow", "lion"]
SMALL = ["--layers", "1", "--width", "64", "--vocabulary", "120", "--batch_size", "32", "--held_out", "32"]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """The scripts as modules."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import corpus
    import masking
    import pretrain

    yield corpus, masking, pretrain
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """The number of an animal says what it eats."""
    rng = random.Random(0)
    rows = [(rng.choice(ANIMALS), rng.choice(["one", "many"])) for _ in range(600)]
    file = tmp_path / "text.txt"
    file.write_text("\n".join(f"{n} {a} eats {'grass' if n == 'one' else 'seeds'} at noon" for a, n in rows))
    return file


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForMaskedLM.from_pretrained(folder).state_dict()


def test_it_learns_and_opens_as_a_model_and_as_an_encoder(example, text: Path, tmp_path: Path, capsys) -> None:
    _, _, pretrain = example
    options = ["--data", str(text), *SMALL, "--max_steps", "80", "--lr", "0.01", "--log_every", "10"]
    pretrain.main([*options, "--output_dir", str(tmp_path / "run")])
    assert "guessed right" in capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < 0.5 * losses[0]
    [dev] = [record["dev"] for record in log if "dev" in record]
    assert dev["accuracy"] > 50  # four words of six can be told from the others
    best = tmp_path / "run" / "best"
    model = AutoModelForMaskedLM.from_pretrained(best)
    assert model.dtype == torch.float16
    encoder = SentenceEncoder.from_pretrained(best, pooling="mean", device="cpu", dtype="fp32")
    assert encoder.encode(["many dog eats seeds"]).shape == (1, 64)
    told = encoder.backbone.state_dict()["embeddings.word_embeddings.weight"]
    torch.testing.assert_close(told, model.bert.embeddings.word_embeddings.weight.float())


def test_a_vocabulary_is_the_same_each_time(example, text: Path) -> None:
    """Left to itself, the trainer numbers characters within words by chance."""
    corpus, _, _ = example
    sentences = corpus.read_sentences(str(text), 1)
    found = [corpus.learn_vocabulary(sentences, 90, 64).get_vocab() for _ in range(4)]
    assert all(one == found[0] for one in found)
    assert len(found[0]) <= 90
    tokens = corpus.learn_vocabulary(sentences, 90, 64).tokenize("Many sparrows eat")
    assert "".join(tokens).replace("##", "") == "manysparrowseat"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_ends_as_one_that_was_not(example, text: Path, tmp_path: Path, monkeypatch, optimizer) -> None:
    _, _, pretrain = example
    options = {"data": str(text), "layers": 1, "width": 64, "vocabulary": 120, "batch_size": 32, "held_out": 32}
    options |= {"max_steps": 24, "optimizer": optimizer, "save_every": 7}
    whole = pretrain.pretrain(pretrain.PretrainConfig(**options, output_dir=str(tmp_path / "whole")))
    learn, config = pretrain.Pretraining._learn, pretrain.PretrainConfig(**options, output_dir=str(tmp_path / "parts"))

    def interrupted(self, batch):
        if self.step == 10:
            signal.raise_signal(signal.SIGTERM)
        return learn(self, batch)

    monkeypatch.setattr(pretrain.Pretraining, "_learn", interrupted)
    with pytest.raises(pretrain.Interrupted, match="step 10 of 24"):
        pretrain.pretrain(config)
    monkeypatch.undo()
    config.resume = "auto"
    assert pretrain.pretrain(config)["sha256"] == whole["sha256"]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_words_are_masked_whole(data: st.DataObject) -> None:
    sys.path.insert(0, str(FOLDER))
    try:
        from masking import Pieces, mask_words
    finally:
        sys.path.remove(str(FOLDER))
    continues, special = torch.tensor([0, 0, 0, 0, 1, 1, 0], dtype=torch.bool), torch.tensor([1, 1, 1, 0, 0, 0, 0]) > 0
    pieces = Pieces(continues, (~special).nonzero().flatten(), special, mask=2)
    words = st.tuples(st.sampled_from([3, 6]), st.lists(st.sampled_from([4, 5]), max_size=3))
    sentences = data.draw(st.lists(st.lists(words, min_size=1, max_size=5), min_size=1, max_size=4))
    spans, ids = [], []  # of words
    for sentence in sentences:
        ids.append(0)
        for first, rest in sentence:
            spans.append(range(len(ids), len(ids) + 1 + len(rest)))
            ids += [first, *rest]
        ids.append(1)
    whole = torch.tensor(ids)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    masked = mask_words(whole, pieces, data.draw(st.floats(0.01, 0.99)), generator)
    places = set(masked.places.tolist())
    assert places
    assert places == {place for span in spans if span[0] in places for place in span}
    assert masked.targets.tolist() == [ids[place] for place in masked.places]
    changed = (masked.ids != whole).nonzero().flatten().tolist()
    assert set(changed) <= places
    assert not set(masked.ids[masked.places].tolist()) & {0, 1}


def test_shares_are_as_asked_for(example) -> None:
    _, masking, _ = example
    special = torch.zeros(1000, dtype=torch.bool)
    special[:3] = True
    pieces = masking.Pieces(torch.zeros(1000, dtype=torch.bool), torch.arange(3, 1000), special, mask=2)
    ids = torch.full((200_000,), 500)
    masked = masking.mask_words(ids, pieces, 0.15, torch.Generator().manual_seed(0))
    assert len(masked.places) / len(ids) == pytest.approx(0.15, abs=0.005)
    seen = masked.ids[masked.places]
    assert (seen == 2).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (seen == 500).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_bf16_is_refused_where_it_is_slower(example, text: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(example[2], "slower_to_train", lambda model, dtype: "a layer takes twice as long in it")
    folder = tmp_path / "run"
    options = [*SMALL, "--data", str(text), "--precision", "bf16", "--output_dir", str(folder)]
    assert run(example[2].main, options) == 2
    assert (
        capsys.readouterr().err
        == "error: --precision is bf16, but a layer takes twice as long in it; take precision auto\n"
    )
    assert not folder.exists()


def test_bf16_sees_each_step_of_the_weights(example, text: Path, tmp_path: Path, monkeypatch) -> None:
    """Autocast keeps what it cast of the weights until it is left: in one for all steps, the head stays as it began."""
    _, _, pretrain = example
    monkeypatch.setattr(pretrain, "slower_to_train", lambda model, dtype: "")
    options = {"data": str(text), "layers": 1, "width": 64, "vocabulary": 120, "batch_size": 32, "held_out": 32}
    options |= {"max_steps": 10, "lr": 0.01, "precision": "bf16", "output_dir": str(tmp_path / "run")}
    found = pretrain.pretrain(pretrain.PretrainConfig(**options))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    [dev] = [record["dev"] for record in log if "dev" in record]
    assert dev["loss"] == pytest.approx(found["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "none.txt"], "error: none.txt: no such file"),
        (["--data", "TEXT", "--batch_size", "600"], "error: TEXT: 600 sentences, expected at least 632"),
        (["--data", "TEXT", "--width", "100"], "error: --width is 100, expected a multiple of 64"),
    ],
)
def test_mistakes_are_told_in_one_line(example, text: Path, tmp_path: Path, capsys, options, message) -> None:
    options = [str(text) if option == "TEXT" else option for option in options]
    folder = tmp_path / "run"
    assert run(example[2].main, [*SMALL, *options, "--output_dir", str(folder)]) in (1, 2)
    assert capsys.readouterr().err.startswith(message.replace("TEXT", str(text)))
    assert not folder.exists()
