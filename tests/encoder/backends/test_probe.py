"""A layer is timed once a machine; what is slower than fp32 is refused by name, and replaced by `auto`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, T5Config

from simcse import ConfigError, SentenceEncoder
from simcse.encoder.backends import probe as probing
from simcse.encoder.backends import select
from simcse.encoder.backends.base import Backend
from simcse.encoder.backends.cpu_features import cpu_flags, has_int8_products
from simcse.encoder.backends.native import instruction_sets
from simcse.encoder.backends.native.binding import load_kernel
from simcse.encoder.backends.native.instruction_sets import AVX2, best_instruction_set
from simcse.encoder.backends.probe import Shape, Verdict, probe, shape_of, stand_in
from simcse.encoder.backends.select import bf16_pays, choose_dtype, prepare
from simcse.encoder.device import has_native_bf16
from simcse.tokens.batch import TokenBatch
from simcse.training.config import DataConfig, ModelConfig, TrainConfig
from simcse.training.run import train

SHAPE = Shape(128, 512, 2)
CPU = torch.device("cpu")
native = pytest.mark.skipif(
    load_kernel(best_instruction_set()) is None, reason="needs a CPU with a kernel of ours, and a C++ compiler"
)
in_bf16 = pytest.mark.skipif(not has_native_bf16(CPU), reason="needs a CPU with AVX512-BF16 or AMX")
in_int8 = pytest.mark.skipif(
    not has_int8_products() and load_kernel(best_instruction_set(torch.float32, int8=True)) is None,
    reason="needs a CPU with VNNI or AMX, or with AVX2 and a C++ compiler",
)


class Repeated:
    """A backend that computes a batch several times before it hands it out."""

    padded = False

    def __init__(self, backend: Backend, times: int) -> None:
        self.backend, self.times, self.name = backend, times, backend.name
        self.tokens_per_batch, self.device = backend.tokens_per_batch, backend.device

    def __call__(self, batch: TokenBatch, layers: Sequence[int], *, cls_only: bool = False) -> list[Tensor]:
        for _ in range(self.times - 1):
            self.backend(batch, layers, cls_only=cls_only)
        return self.backend(batch, layers, cls_only=cls_only)


class Ways:
    """By torch; one of the two computes everything `times` times; counts how often they were prepared."""

    def __init__(self, candidate: int = 1, fp32: int = 1) -> None:
        self.times, self.prepared = {"candidate": candidate, "fp32": fp32}, 0

    def way(self, name: str) -> probing.Prepare:
        def made(backbone: nn.Module) -> Backend:
            self.prepared += 1
            return Repeated(prepare(backbone, "torch", lambda: pytest.fail("no int8")), self.times[name])

        return made

    def verdict(self, name: str = "torch") -> Verdict:
        return probe(name, SHAPE, torch.float32, self.way("candidate"), self.way("fp32"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, not made yet, and a process that has timed nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probing, "_known", {})
    return tmp_path / "cache" / "simcse"


def next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what is known but to the folder."""
    monkeypatch.setattr(probing, "_known", {})


def test_the_slower_one_is_found() -> None:
    assert Ways(candidate=4).verdict("slow").slower
    verdict = Ways(fp32=4).verdict("fast")
    assert not verdict.slower
    assert 0 < verdict.seconds < verdict.fp32_seconds


def test_a_verdict_is_made_once_and_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(candidate=4)
    made = ways.verdict()
    assert ways.verdict() == made
    (file,) = folder.iterdir()
    next_process(monkeypatch)
    assert ways.verdict() == made
    assert ways.prepared == 2
    file.write_text(file.read_text().replace(str(made.seconds), "1e-9"))  # what is kept wins
    next_process(monkeypatch)
    assert not ways.verdict().slower
    assert ways.prepared == 2


@pytest.mark.parametrize("change", ["flags", "model", "torch", "simcse", "kernel", "threads", "name", "shape", "dtype"])
def test_another_machine_or_version_is_timed_anew(change: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways()
    ways.verdict()
    next_process(monkeypatch)
    name, shape, dtype = "torch", SHAPE, torch.float32
    if change == "flags":  # a virtual machine that moved, or now hides an instruction set
        monkeypatch.setattr(probing, "cpu_flags", lambda: frozenset({"avx2"}))
    elif change == "model":
        monkeypatch.setattr(probing, "cpu_model", lambda: "another")
    elif change == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    elif change == "simcse":
        monkeypatch.setattr(probing, "__version__", "9.9")
    elif change == "kernel":  # a checkout that was updated
        monkeypatch.setattr(probing, "sources_digest", lambda: "another")
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
        monkeypatch.setattr(probing, "worker_count", lambda device: 1)
    elif change == "name":
        name = "another"
    elif change == "shape":
        shape = Shape(128, 768, 2)
    else:
        dtype = torch.float64
    probe(name, shape, dtype, ways.way("candidate"), ways.way("fp32"))
    assert ways.prepared == 4
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: "\0" * len(text),
        lambda text: json.dumps(json.loads(text) | {"seconds": "NaN"}),
        lambda text: json.dumps(json.loads(text) | {"fp32_seconds": 0}),
        lambda text: json.dumps(json.loads(text) | {"key": "of another machine"}),
        lambda text: json.dumps({"key": json.loads(text)["key"]}),
    ],
    ids=["empty", "cut", "list", "null", "zeros", "NaN", "0 s", "key", "no times"],
)
def test_a_damaged_file_is_made_anew(damage: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(candidate=4)
    ways.verdict()
    (file,) = folder.iterdir()
    file.write_text(damage(file.read_text()))
    next_process(monkeypatch)
    made = ways.verdict()
    assert made.slower
    assert ways.prepared == 4
    assert json.loads(file.read_text())["seconds"] == made.seconds
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize("trouble", ["a file", "a link", "others can write"])
def test_without_a_safe_folder_it_is_known_to_the_process(trouble: str, folder: Path) -> None:
    if trouble == "a file":
        folder.parent.write_text("where the folder should be")
    elif trouble == "a link":
        folder.parent.mkdir()
        folder.symlink_to("elsewhere")
    else:
        folder.parent.mkdir()
        folder.parent.chmod(0o777)
    ways = Ways(candidate=4)
    assert ways.verdict().slower
    assert ways.verdict().slower
    assert ways.prepared == 2
    assert not list(folder.parent.rglob("probe-*"))


def test_of_two_processes_the_sooner_is_right(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(candidate=4)
    keys: list[str] = []
    monkeypatch.setattr(probing, "keep", lambda key, verdict: keys.append(key) or verdict)
    assert ways.verdict().slower
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    race = probing.race

    def beaten(*arguments: Any) -> Verdict:
        probing.keep(keys[0], Verdict(1.0, 2.0))
        return race(*arguments)

    monkeypatch.setattr(probing, "race", beaten)
    next_process(monkeypatch)
    assert ways.verdict() == Verdict(1.0, 2.0)


def test_the_users_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    Ways().verdict()
    assert torch.equal(torch.get_rng_state(), before)


def test_shapes_that_are_timed() -> None:
    def of(width: int, inner: int, heads: int) -> Shape | None:
        return shape_of(BertConfig(hidden_size=width, intermediate_size=inner, num_attention_heads=heads))

    assert of(384, 1536, 12) == Shape(384, 1536, 12)
    assert of(32, 64, 4) is None  # products are not what it spends its time on
    assert of(4096, 14336, 32) == Shape(1024, 4096, 8)  # heads keep their width
    assert shape_of(T5Config(d_model=384, num_heads=6, d_ff=1024)) == Shape(384, 1536, 6)  # which names it d_ff


def slow(monkeypatch: pytest.MonkeyPatch, *ways: str) -> None:
    """Make backends slow that are named as `native` or `torch bfloat16`."""
    real = select.prepare

    def made(backbone: nn.Module, chosen: str, calibration: Any) -> Backend:
        dtype = str(next(backbone.parameters()).dtype).removeprefix("torch.")
        times = 8 if {chosen, f"{chosen} {dtype}"} & set(ways) else 1
        backend = real(backbone, chosen, calibration)
        return Repeated(backend, times) if times > 1 else backend

    monkeypatch.setattr(select, "prepare", made)


def load(folder: Path, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", **options)


@native
def test_a_slow_kernel_is_replaced_and_refused(
    minilm: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load(minilm, dtype="bf16", backend="torch").encode(sentences)
    slow(monkeypatch, "native bfloat16")
    with caplog.at_level(logging.INFO, "simcse"):
        encoder = load(minilm)
    assert repr(encoder).endswith("bfloat16 on cpu, backend torch)")
    np.testing.assert_array_equal(encoder.encode(sentences), expected)
    assert "the backend native is left out, as on this CPU a layer of width 384 takes " in caplog.text
    with pytest.raises(
        ConfigError,
        match=r"^backend is native, but on this CPU a layer .* ms by native in bfloat16, and .* ms in fp32; "
        r"take backend auto$",
    ):
        load(minilm, backend="native")


@in_bf16
def test_a_slow_precision_is_replaced_and_refused(
    minilm: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a virtual machine hides AMX, and the CPU's AVX512-BF16 is no faster than fp32."""
    exact = load(minilm, dtype="fp32")
    expected = exact.encode(sentences)
    slow(monkeypatch, "native bfloat16", "torch bfloat16", "int8 bfloat16")
    with caplog.at_level(logging.INFO, "simcse"):
        encoder = load(minilm)
    assert repr(encoder).endswith(f"float32 on cpu, backend {exact.backend})")
    np.testing.assert_array_equal(encoder.encode(sentences), expected)
    assert "dtype auto computes in fp32, as on this CPU a layer of width 384 takes " in caplog.text
    for name in ("bf16", torch.bfloat16):
        with pytest.raises(ConfigError, match=r"^dtype is bf.*16, but on this CPU a layer .*; take dtype auto$"):
            load(minilm, dtype=name)
    assert load(minilm).to(torch.bfloat16).encode("a dog").shape == (384,)  # who asks torch for it gets it
    if has_int8_products():
        assert load(minilm, dtype="int8").dtype == torch.float32


@in_int8
def test_slow_integers_are_refused(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, "int8")
    for options in ({"dtype": "int8"}, {"backend": "int8"}):
        (name,) = options
        with pytest.raises(ConfigError, match=rf"^{name} is int8, but on this CPU a layer .*; take {name} auto$"):
            load(minilm, **options)


def test_float16_is_never_slower_than_fp32(minilm: Path) -> None:
    """Most CPUs emulate it; on one that computes in it, it is accepted."""
    verdict = select.slower_than_fp32(stand_in(Shape(384, 1536, 12), torch.float16), "torch")
    if verdict is None:
        assert load(minilm, dtype="fp16").dtype == torch.float16
        return
    with pytest.raises(ConfigError, match=r"^dtype is fp16, but on this CPU a layer .* ms by torch in float16, and"):
        load(minilm, dtype="fp16")


def test_a_precision_by_the_backbones_own_forward(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture that is computed padded, against itself in fp32."""
    slow(monkeypatch, "huggingface bfloat16")
    backbone = load(minilm, dtype="fp32").backbone
    backbone.config.hidden_act = "relu"
    with pytest.raises(ConfigError, match=r"^dtype is bf16, but .* ms by huggingface in bfloat16, and"):
        choose_dtype(backbone, "bf16", CPU)
    if has_native_bf16(CPU):
        assert choose_dtype(backbone, "auto", CPU) == torch.float32


def test_other_devices_and_small_models_are_not_timed(
    minilm: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "probe", lambda *arguments: pytest.fail("nothing to time"))
    assert load(tiny_bert, dtype="fp16").encode("a dog").shape == (32,)
    exact = load(minilm, dtype="fp32", backend="torch")
    assert exact.encode("a dog").shape == (384,)
    assert choose_dtype(exact.backbone, "bf16", torch.device("cuda")) == torch.bfloat16


def test_one_text_pays_for_no_probe(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(minilm)
    expected = encoder.encode("a dog")
    monkeypatch.setattr(select, "probe", lambda *arguments: pytest.fail("timed again"))
    np.testing.assert_array_equal(encoder.encode("a dog"), expected)


@in_bf16
@pytest.mark.parametrize("slower", [False, True])
def test_training_asks_too(slower: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, "torch bfloat16" if slower else "torch float32")
    assert bf16_pays(CPU) is not slower


def test_training_in_a_slow_precision_is_refused(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU without bf16 instructions; nothing is left behind."""
    slow(monkeypatch, "torch bfloat16")
    texts, run = tmp_path / "texts.txt", tmp_path / "run"
    texts.write_text("a dog\na cat\n", encoding="utf-8")
    config = TrainConfig(
        model=ModelConfig(str(minilm)), data=DataConfig(str(texts)), batch_size=2, max_steps=1, precision="bf16",
        output_dir=str(run),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"^precision is bf16, but on this CPU a layer .*; take precision auto$"):
        train(config)
    assert not run.exists()


def test_an_unknown_backend_is_named_before_anything_is_timed(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "probe", lambda *arguments: pytest.fail("nothing to time"))
    with pytest.raises(ConfigError, match=r"^backend 'cuda' is not one of"):
        load(minilm, dtype="bf16", backend="cuda")


@pytest.mark.skipif(not AVX2.flags <= cpu_flags() or load_kernel(AVX2) is None, reason="needs AVX2 and a C++ compiler")
def test_fp32_is_what_auto_takes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel where it computes in fp32, which is timed against torch for that: a verdict within a verdict."""
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: AVX2.flags)
    select.slower_than_fp32(stand_in(SHAPE, torch.bfloat16), "torch")
    assert {key.split(" Shape")[0] for key in probing._known} == {"native torch.float32", "torch torch.bfloat16"}
