"""Architectures beside BERT's: each encodes, trains, saves and loads with the same vectors, or is refused in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from kinds import CAUSAL, KINDS, LEAKING, build
from tiny import VOCABULARY
from transformers import PreTrainedTokenizerFast

from simcse import ConfigError, ModelError, SentenceEncoder
from simcse.encoder.backbone import NO_LIMIT
from simcse.encoder.backends.huggingface import huggingface_states
from simcse.encoder.traits import find_traits
from simcse.tokens.batch import TokenBatch
from simcse.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from simcse.training.run import train


def load(folder: Path, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32", **options)


@pytest.fixture(scope="module", params=[*KINDS, "t5 encoder"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param.split()[0]
    place = tmp_path_factory.mktemp("kinds") / kind
    build(place, kind, model="EncoderModel" if " " in request.param else "Model")
    return place


def test_each_text_alone_is_as_in_a_batch(folder: Path, sentences: list[str]) -> None:
    encoder = load(folder)
    assert encoder.pooling == ("last_token" if folder.name in CAUSAL else "cls")
    texts = [*sentences[:12], "", "a", "the man " * 20]
    together = encoder.encode(texts)
    np.testing.assert_allclose(np.stack([encoder.encode(text) for text in texts]), together, atol=1e-5)
    assert len(np.unique(together[:12].round(4), axis=0)) == 12  # and each text has a vector of its own


def test_saved_it_gives_the_same_vectors_here_and_elsewhere(folder: Path, tmp_path: Path, sentences: list[str]) -> None:
    from sentence_transformers import SentenceTransformer

    encoder, sentences = load(folder), sentences[:12]
    expected = encoder.encode(sentences)
    saved = encoder.save_pretrained(tmp_path / "saved")
    again = load(saved)
    assert again.pooling == encoder.pooling
    np.testing.assert_allclose(again.encode(sentences), expected, atol=1e-6)
    peer = SentenceTransformer(str(saved), device="cpu")
    alone = [peer.encode([text], show_progress_bar=False)[0] for text in sentences]  # its batches pad
    np.testing.assert_allclose(np.stack(alone), expected, atol=1e-5)


def test_two_steps_of_training(folder: Path, sentences: list[str]) -> None:
    """Dropout is active, gradients reach each layer, and a sequence's states depend on nothing beside it."""
    encoder = load(folder, dropout=0.1)
    batch = TokenBatch.from_lists(encoder.tokenize()(sentences[:8])[0])
    encoder.train()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
    before = [weight.detach().clone() for weight in encoder.parameters()]
    for _ in range(2):
        a, b = encoder(batch), encoder(batch)
        assert not torch.allclose(a, b, atol=1e-3)
        (a - b.detach() + a.pow(2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = [not torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2


@pytest.mark.parametrize("kind", sorted(CAUSAL))
def test_a_decoder_has_no_cls(kind: str, tmp_path: Path, sentences: list[str]) -> None:
    build(tmp_path, kind)
    with pytest.raises(ConfigError) as error:
        load(tmp_path, pooling="cls")
    assert f"pooling is cls, but {tmp_path} is a decoder ({kind})" in str(error.value)
    assert "last_token or mean" in str(error.value)
    assert load(tmp_path, pooling="mean").encode(sentences).shape == (64, 32)


def test_a_folder_of_a_decoder_that_says_cls(tmp_path: Path) -> None:
    """As was saved before there was another pooling for it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    build(tmp_path / "plain", "qwen2")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "plain", pad_token="[PAD]")
    tokenizer.save_pretrained(tmp_path / "plain")
    words = Transformer(str(tmp_path / "plain"))
    SentenceTransformer(modules=[words, Pooling(32, pooling_mode="cls")], device="cpu").save(str(tmp_path / "st"))
    with pytest.raises(ConfigError, match=r"pooling is cls, but .* is a decoder"):
        load(tmp_path / "st")


@pytest.mark.parametrize("kind", ["bert", "qwen2"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_last_token_is_sentence_transformers(kind: str, side: str, tmp_path: Path, sentences: list[str]) -> None:
    """Whichever side a peer pads on; here nothing is padding."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    build(tmp_path / "plain", kind)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "plain", pad_token="[PAD]", padding_side=side)
    tokenizer.save_pretrained(tmp_path / "plain")
    words = Transformer(str(tmp_path / "plain"))
    peer = SentenceTransformer(modules=[words, Pooling(32, pooling_mode="lasttoken")], device="cpu")
    peer.save(str(tmp_path / "st"))
    encoder = load(tmp_path / "st")
    assert encoder.pooling == "last_token"
    ours = encoder.encode(sentences, normalize=False)
    theirs = [peer.encode([text], show_progress_bar=False)[0] for text in sentences]
    np.testing.assert_allclose(ours, np.stack(theirs), atol=1e-4)


def test_no_limit_of_minus_one_token(tmp_path: Path) -> None:
    build(tmp_path, "xlnet")
    encoder = load(tmp_path)
    assert (encoder.max_length, encoder.backbone_limit) == (512, NO_LIMIT)
    assert load(tmp_path, max_length=600).encode("a man " * 300).shape == (32,)


def test_half_of_a_t5_is_its_encoder(tmp_path: Path, sentences: list[str]) -> None:
    whole = build(tmp_path, "t5", model="ForConditionalGeneration")
    encoder = load(tmp_path, pooling="mean")
    assert type(encoder.backbone).__name__ == "T5EncoderModel"
    ids = torch.tensor(encoder.tokenize()(sentences[:1])[0])
    with torch.no_grad():
        expected = whole.get_encoder()(input_ids=ids).last_hidden_state.mean(1)
    np.testing.assert_allclose(encoder.encode(sentences[:1], normalize=False), expected, atol=1e-5)


def test_an_encoder_and_decoder_without_a_class_for_half_of_it(tmp_path: Path, tiny_bert: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=len(VOCABULARY), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
    )  # fmt: skip
    transformers.BartModel(config).save_pretrained(tmp_path)
    for file in tiny_bert.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        ModelError, match=r"config.json: a bart is an encoder and a decoder, and transformers loads neither"
    ):
        load(tmp_path)


def test_a_model_of_no_text(tmp_path: Path, tiny_bert: Path) -> None:
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    for file in tiny_bert.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="a vit does not turn token ids and a mask into token states"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "fields"), [("t5", {"dropout_rate"}), ("gpt2", {"resid_pdrop", "embd_pdrop", "attn_pdrop"})]
)
def test_rates_by_other_names(kind: str, fields: set[str], tmp_path: Path) -> None:
    build(tmp_path, kind)
    config = load(tmp_path, dropout=0.25).backbone.config.to_dict()
    assert {key for key, value in config.items() if "drop" in key and value == 0.25} == fields


def test_no_rate_at_all(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaModel

    MambaModel(MambaConfig(vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a mamba backbone has no dropout rate to set"):
        load(tmp_path, dropout=0.1)


@pytest.mark.parametrize("kind", ["convbert", "electra", "fnet", "qwen2", "deberta-v2"])
def test_what_is_found_out(kind: str, tmp_path: Path) -> None:
    backbone = build(tmp_path, kind)
    assert tuple(find_traits(backbone, tmp_path)) == (kind in CAUSAL, kind in LEAKING)
    assert not backbone.training


def test_an_encoder_turned_into_a_decoder_and_a_decoder_into_an_encoder(tmp_path: Path) -> None:
    """The name of the kind stays."""
    assert find_traits(build(tmp_path / "bert", "bert", is_decoder=True), "bert").causal
    backbone: Any = build(tmp_path / "qwen2", "qwen2", attn_implementation="eager")
    assert find_traits(backbone, "qwen2").causal
    backbone.config.is_causal = False
    for module in backbone.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    assert not find_traits(backbone, "qwen2").causal


def test_padding_that_leaks_in_training(tmp_path: Path, sentences: list[str]) -> None:
    """Lengths are kept apart where padding would change a state, gradients too."""
    build(tmp_path, "convbert")
    encoder = load(tmp_path)
    rows = encoder.tokenize()(sentences[:9])[0]
    for cls_only in (False, True):
        states = huggingface_states(encoder.backbone, TokenBatch.from_lists(rows), (0, -1), cls_only=cls_only)
        batches = [TokenBatch.from_lists([row]) for row in rows]
        alone = [huggingface_states(encoder.backbone, batch, (0, -1), cls_only=cls_only) for batch in batches]
        for layer in (0, 1):
            torch.testing.assert_close(states[layer], torch.cat([x[layer] for x in alone]), atol=1e-5, rtol=0)
    states[-1].sum().backward()
    assert encoder.backbone.embeddings.word_embeddings.weight.grad is not None


@pytest.mark.parametrize("kind", ["convbert", "qwen2", "t5"])
def test_a_run_of_two_steps(kind: str, tmp_path: Path, sentences: list[str]) -> None:
    """A few rows at a time: last/ loads, and has moved."""
    build(tmp_path / kind, kind)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences[:32]) + "\n", encoding="utf-8")
    train(
        TrainConfig(
            model=ModelConfig(name=str(tmp_path / kind), dropout=0.1),
            data=DataConfig(train=str(texts)),
            optim=OptimConfig(lr=0.01),
            output_dir=str(tmp_path / "run"),
            batch_size=8,
            micro_batch_size=4,
            max_steps=2,
            max_length=16,
            precision="fp32",
        )
    )
    before, after = load(tmp_path / kind), load(tmp_path / "run" / "last")
    assert after.pooling == before.pooling
    assert np.abs(after.encode(sentences[:8]) - before.encode(sentences[:8])).max() > 1e-3
