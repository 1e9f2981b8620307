"""A saved folder gives the same vectors in transformers and sentence-transformers, and a damaged one is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny import build_encoder
from torch import nn
from transformers import AlbertConfig, AutoModel, AutoTokenizer, DistilBertConfig

from simcse import ConfigError, ModelError, SentenceEncoder
from simcse.encoder.formats import FORMAT
from simcse.encoder.loading import new_backbone
from simcse.encoder.projection import Projection
from simcse.encoder.saving import add_digests, digest, pooler_weights, verified
from simcse.files import sha256_of


def load(folder: Path, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32", **options)


def change(file: Path, **entries: object) -> None:
    """Set entries of a JSON file; Ellipsis takes one away."""
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_pooler_output_is_the_same_at_each_load(tiny_bert: Path, tmp_path: Path) -> None:
    folder = load(tiny_bert, pooling="mean").save_pretrained(tmp_path / "best")
    tokens = AutoTokenizer.from_pretrained(folder)(["the dog runs"], return_tensors="pt")
    with torch.no_grad():
        first, second = (AutoModel.from_pretrained(folder).eval()(**tokens).pooler_output for _ in range(2))
    assert torch.equal(first, second)


def test_whoever_may_read_one_file_may_read_all(tiny_bert: Path, tmp_path: Path) -> None:
    """As the umask says: a service of another user opens the checkpoint."""
    before = os.umask(0o027)
    try:
        folder = load(tiny_bert, projection="pooler").save_pretrained(tmp_path / "best")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in folder.rglob("*") if file.is_file()} == {0o640}


def test_what_reads_no_cls_token_is_no_pooler(tiny_bert: Path, tmp_path: Path) -> None:
    """Neither no head, nor one behind the mean."""
    encoder = load(tiny_bert, pooling="mean")
    for head in (None, Projection(encoder.width)):
        encoder.projection = head
        folder = encoder.save_pretrained(tmp_path / "best")
        with pytest.raises(ModelError, match=r"pooler\.dense\.weight and .* are missing"):
            load(folder, projection="pooler")


def test_a_saved_head_is_found_as_a_pooler_too(tiny_bert: Path, tmp_path: Path, sentences: list[str]) -> None:
    encoder = load(tiny_bert, pooling="cls")
    encoder.projection = Projection(encoder.width)
    folder = encoder.save_pretrained(tmp_path / "best")
    np.testing.assert_allclose(load(folder).encode(sentences), encoder.encode(sentences), atol=1e-6)
    as_pooler = load(folder, projection="pooler")
    np.testing.assert_allclose(as_pooler.encode(sentences), encoder.encode(sentences), atol=1e-6)
    again = as_pooler.save_pretrained(tmp_path / "again")
    np.testing.assert_allclose(load(again).encode(sentences), encoder.encode(sentences), atol=1e-6)


@pytest.fixture
def saved(tiny_bert: Path, tmp_path: Path) -> Path:
    """A folder of ours, with a head."""
    encoder = load(tiny_bert, pooling="cls")
    encoder.projection = Projection(encoder.width, 16)
    return encoder.save_pretrained(tmp_path / "best")


def test_one_flipped_bit_in_any_file_that_decides_a_vector(saved: Path, tmp_path: Path) -> None:
    """In the lowest bit of a weight, too, which no look at the vectors would find."""
    files = json.loads((saved / "simcse.json").read_text())["sha256"]
    weights = {"model.safetensors", "2_Dense/model.safetensors"}
    assert files.keys() >= weights | {"config.json", "tokenizer.json", "2_Dense/config.json"}
    for name in files:
        broken = Path(shutil.copytree(saved, tmp_path / "broken", dirs_exist_ok=True))
        content = bytearray((broken / name).read_bytes())
        content[-4 if name in weights else len(content) // 2] ^= 1
        (broken / name).write_bytes(content)
        with pytest.raises(ModelError, match=rf"{name.replace('.', '[.]')}") as caught:
            load(broken)
        assert "\n" not in str(caught.value)
        (broken / name).unlink()
        with pytest.raises(ModelError):
            load(broken)


def test_another_checkpoint_s_weights(saved: Path, tmp_path: Path) -> None:
    other = build_encoder(tmp_path / "other", seed=1)
    shutil.copy(other / "model.safetensors", saved)
    with pytest.raises(ModelError, match=r"model\.safetensors: not the file that was saved .* copy the folder anew"):
        load(saved)


def test_digests_do_not_forbid_what_others_read(saved: Path, sentences: list[str]) -> None:
    """And a line that is deleted counts no more."""
    expected = load(saved).encode(sentences)
    change(saved / "sentence_bert_config.json", max_seq_length=10)
    (saved / "README.md").write_text("a card")
    change(saved / "config.json", architectures=["Something"])
    digests = json.loads((saved / "simcse.json").read_text())["sha256"]
    change(saved / "simcse.json", sha256={name: said for name, said in digests.items() if name != "config.json"})
    np.testing.assert_array_equal(load(saved).encode(sentences), expected)


def test_a_graph_counts_for_the_backend_that_reads_it(saved: Path) -> None:
    """All files but the graph are compared for the others; each that is missing or another one is named."""
    digests = json.loads((saved / "simcse.json").read_text())["sha256"] | {"onnx/model.onnx": "0" * 64}
    with verified(saved, digests):
        pass
    with pytest.raises(ModelError, match=r"onnx/model\.onnx: missing"), verified(saved, digests, onnx=True):
        pass
    (saved / "onnx").mkdir()
    (saved / "onnx" / "model.onnx").write_bytes(b"another")
    with pytest.raises(ModelError, match=r"onnx/model\.onnx: not the file"), verified(saved, digests, onnx=True):
        pass


def test_digests_of_names_that_no_file_can_have(saved: Path) -> None:
    for name in ("x" * 300, "a/" + "x" * 300, "a\0b"):
        change(saved / "simcse.json", sha256={name: "0"})
        with pytest.raises(ModelError, match="missing"):
            load(saved)


def test_digests_lead_to_no_file_outside(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("")
    for name in ("../outside", str(tmp_path / "outside"), "a/../../outside"):
        change(saved / "simcse.json", sha256={name: "0"})
        with pytest.raises(ModelError, match=rf"^{saved}/simcse\.json: .* leads out of the checkpoint"):
            load(saved)


def test_files_behind_links_are_the_hub_s_way(saved: Path, tmp_path: Path, sentences: list[str]) -> None:
    """Its cache keeps each file elsewhere, under its digest, and links to it."""
    expected = load(saved).encode(sentences)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(path for path in saved.rglob("*") if path.is_file())):
        file.rename(blobs / str(number))
        file.symlink_to(os.path.relpath(blobs / str(number), file.parent))
    np.testing.assert_array_equal(load(saved).encode(sentences), expected)


def test_a_folder_of_before_there_were_digests(saved: Path, sentences: list[str]) -> None:
    expected = load(saved).encode(sentences)
    later = ("prompts", "default_prompt_name", "include_prompt", "truncate_dim", "sha256")
    change(saved / "simcse.json", format=1, **dict.fromkeys(later, ...))
    np.testing.assert_array_equal(load(saved).encode(sentences), expected)


@pytest.mark.parametrize("kept", [10, 100])
def test_truncate_dim(tiny_bert: Path, tmp_path: Path, sentences: list[str], kept: int) -> None:
    """As sentence-transformers does it, which leaves the length of what is left as it is."""
    SentenceTransformer(str(load(tiny_bert, pooling="mean").save_pretrained(tmp_path / "whole")), device="cpu").save(
        str(tmp_path / "theirs"), create_model_card=False
    )
    change(tmp_path / "theirs" / "config_sentence_transformers.json", truncate_dim=kept)
    encoder = load(tmp_path / "theirs")
    peer = SentenceTransformer(str(tmp_path / "theirs"), device="cpu")
    vectors = encoder.encode(sentences)
    assert encoder.dimension == vectors.shape[1] == min(kept, 32)
    np.testing.assert_allclose(vectors, unit(peer.encode(sentences)), atol=1e-5)
    folder = encoder.save_pretrained(tmp_path / "ours")
    again = load(folder)
    np.testing.assert_allclose(again.encode(sentences), vectors, atol=1e-6)
    np.testing.assert_allclose(
        unit(SentenceTransformer(str(folder), device="cpu").encode(sentences)), vectors, atol=1e-5
    )
    assert again.fingerprint == encoder.fingerprint != load(tmp_path / "whole").fingerprint
    encoder.projection = Projection(encoder.width, 16)
    assert encoder.dimension == encoder.encode("a").shape[0] == min(kept, 16)


def test_truncate_dim_out_of_range(tiny_bert: Path, saved: Path) -> None:
    for kept in (0, -1, True, "8", 1.5):
        change(saved / "simcse.json", truncate_dim=kept)
        with pytest.raises(ModelError, match=r"simcse\.json: 'truncate_dim' is"):
            load(saved)
    plain = load(tiny_bert)
    with pytest.raises(ConfigError, match="truncate_dim is 0, expected at least 1"):
        SentenceEncoder(plain.backbone, plain.tokenizer, truncate_dim=0)


def test_truncate_dim_of_from_pretrained(tiny_bert: Path, tmp_path: Path, sentences: list[str]) -> None:
    """As SentenceTransformer(truncate_dim=) cuts vectors; in place of what the folder says, and saved."""
    folder = load(tiny_bert, pooling="mean").save_pretrained(tmp_path / "whole")
    encoder = load(folder, truncate_dim=10)
    peer = SentenceTransformer(str(folder), device="cpu", truncate_dim=10)
    vectors = encoder.encode(sentences)
    assert encoder.dimension == vectors.shape[1] == 10
    np.testing.assert_allclose(vectors, unit(peer.encode(sentences)), atol=1e-5)
    cut = encoder.save_pretrained(tmp_path / "cut")
    assert load(cut).fingerprint == encoder.fingerprint != load(folder).fingerprint
    assert load(cut, truncate_dim=20).dimension == 20
    for kept in (0, -1, True, "8", 1.5):
        with pytest.raises(ConfigError, match=r"truncate_dim is .*, expected at least 1"):
            load(folder, truncate_dim=kept)
    with pytest.raises(ConfigError, match=r"truncate_dim is 33, expected 1 to 32, all of .*whole"):
        load(folder, truncate_dim=33)


def test_entry_by_entry_what_others_read(tiny_bert: Path, tmp_path: Path) -> None:
    """Names and values are those of sentence-transformers, in all of its versions; `simcse.json` vouches for files."""

    def written(encoder: SentenceEncoder, folder: Path) -> dict[str, Any]:
        encoder.save_pretrained(folder)
        found = {file.relative_to(folder).as_posix(): json.loads(file.read_text()) for file in folder.rglob("*.json")}
        digests = found["simcse.json"].pop("sha256")
        heads = {name for name in found if name.endswith("_Dense/config.json")}
        heads |= {name.replace("config.json", "model.safetensors") for name in heads}
        own = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
        assert digests == {name: sha256_of(folder / name) for name in own | heads}
        assert found["sentence_bert_config.json"] == {"max_seq_length": 64, "do_lower_case": False}
        kinds = [folder.name.partition("_")[2] for folder in sorted(folder.iterdir()) if folder.is_dir()]
        assert found["modules.json"] == [
            {
                "idx": i,
                "name": str(i),
                "path": f"{i}_{kind}" if i else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for i, kind in enumerate(["Transformer", *kinds])
        ]
        return found | {"modules.json": kinds}

    def pooling(mode: str, *, include_prompt: bool = True) -> dict[str, Any]:
        modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "lasttoken")}
        return {"word_embedding_dimension": 32, **modes, "include_prompt": include_prompt}

    nothing = {"prompts": {}, "default_prompt_name": None, "truncate_dim": None}
    for name, mode in (("cls", "cls_token"), ("last_token", "lasttoken"), ("mean", "mean_tokens")):
        found = written(load(tiny_bert, pooling=name), tmp_path / name)
        assert found["modules.json"] == ["Pooling", "Normalize"]
        assert found["1_Pooling/config.json"] == pooling(mode)
        assert not found["config.json"].get("output_hidden_states")
        assert found["config_sentence_transformers.json"] == {"similarity_fn_name": "cosine"} | nothing
        ours = {"format": FORMAT, "pooling": name, "projection": None, "max_length": 64, "include_prompt": True}
        assert found["simcse.json"] == ours | nothing
    encoder = load(tiny_bert, pooling="first_last_mean", truncate_dim=10)
    encoder.projection, encoder.include_prompt = Projection(32, 16, "GELU"), False
    encoder.prompts, encoder.default_prompt_name = {"query": "q: ", "title": "t: "}, "title"
    found = written(encoder, tmp_path / "all")
    assert found["modules.json"] == ["WeightedLayerPooling", "Pooling", "Dense", "Normalize"]
    layers = {"word_embedding_dimension": 32, "layer_start": 1, "num_hidden_layers": 2}
    assert found["1_WeightedLayerPooling/config.json"] == layers
    weights = load_file(tmp_path / "all" / "1_WeightedLayerPooling" / "model.safetensors")
    assert {name: value.tolist() for name, value in weights.items()} == {"layer_weights": [1, 1]}
    assert found["config.json"]["output_hidden_states"] is True
    assert found["2_Pooling/config.json"] == pooling("mean_tokens", include_prompt=False)
    assert found["3_Dense/config.json"] == {
        "in_features": 32, "out_features": 16, "bias": True, "activation_function": "torch.nn.modules.activation.GELU"
    }  # fmt: skip
    shared = {"prompts": encoder.prompts, "default_prompt_name": "title", "truncate_dim": 10}
    by_role = encoder.prompts | {"document": "t: "}
    assert found["config_sentence_transformers.json"] == {"similarity_fn_name": "cosine"} | shared | {
        "prompts": by_role
    }
    ours = {"format": FORMAT, "pooling": "first_last_mean", "projection": "3_Dense", "max_length": 64}
    assert found["simcse.json"] == ours | shared | {"include_prompt": False}


def test_a_pooler_is_the_head_where_both_do_the_same(tiny_bert: Path) -> None:
    """Else zeros, which say nothing, in the backbone's type. ALBERT's pooler has its activation beside it."""
    shape = {"vocab_size": 99, "embedding_size": 8, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 8}
    albert = new_backbone(AlbertConfig(**shape))
    bert = load(tiny_bert).backbone
    for backbone, place in ((bert, "pooler.dense"), (albert, "pooler")):
        head = Projection(32)
        for value in (head.linear.weight, head.linear.bias):
            nn.init.normal_(value)
        found = pooler_weights(backbone, head)
        assert found.keys() == {f"{place}.weight", f"{place}.bias"}
        assert all(torch.equal(found[f"{place}.{name}"], value) for name, value in head.linear.state_dict().items())
        for other in (None, Projection(32, 16), Projection(32, activation="ReLU")):
            found = pooler_weights(backbone, other)
            assert {name: (tuple(value.shape), value.any().item()) for name, value in found.items()} == {
                f"{place}.weight": ((32, 32), False), f"{place}.bias": ((32,), False)
            }  # fmt: skip
    assert {value.dtype for value in pooler_weights(bert.bfloat16(), None).values()} == {torch.bfloat16}
    without = new_backbone(DistilBertConfig(vocab_size=99, dim=8, hidden_dim=8, n_layers=1, n_heads=1))
    assert pooler_weights(without, Projection(8)) == {}


def test_digests_of_more_files(saved: Path) -> None:
    before = json.loads((saved / "simcse.json").read_text())
    (saved / "onnx").mkdir()
    for name in ("b", "a"):
        (saved / "onnx" / name).write_text(name)
    add_digests(saved, [saved / "onnx" / "b", saved / "onnx" / "a"])
    after = json.loads((saved / "simcse.json").read_text())
    assert list(after["sha256"])[-2:] == ["onnx/a", "onnx/b"]
    more = {f"onnx/{name}": sha256_of(saved / "onnx" / name) for name in ("a", "b")}
    assert after == before | {"sha256": before["sha256"] | more}


def test_a_digest_is_of_settings_names_and_weights() -> None:
    """An index holds the one of its encoder: that of a version before this one still counts."""
    state = {"w": torch.arange(6.0).view(2, 3)}
    assert digest("s", state) == "5e695aa63c097fd3"
    for same in (state["w"].bfloat16(), state["w"].T.contiguous().T):
        assert digest("s", {"w": same}) == digest("s", state)
    for settings, other in (("t", state), ("s", {"v": state["w"]}), ("s", {"w": state["w"] + 1}), ("s", {})):
        assert digest(settings, other) != digest("s", state)
