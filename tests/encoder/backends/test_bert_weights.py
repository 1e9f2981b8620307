"""Each architecture that has a pass written out here, by every backend and in training, against Hugging Face's own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from kinds import build as build_kind
from torch import Tensor, nn

from simcse import ConfigError
from simcse.encoder.backbone import NO_LIMIT, longest_input
from simcse.encoder.backends.bert_weights import KINDS, BertWeights, why_not_bert
from simcse.encoder.backends.cpu_features import has_int8_products
from simcse.encoder.backends.cpu_training.forward import training_states, why_not_fused
from simcse.encoder.backends.huggingface import huggingface_states
from simcse.encoder.backends.native.backend import unfit
from simcse.encoder.backends.native.instruction_sets import best_instruction_set
from simcse.encoder.backends.select import choose_backend, prepared_backend
from simcse.encoder.backends.torch_packed import TorchPackedBackend
from simcse.encoder.pooling import POOLINGS, pool
from simcse.tokens.batch import TokenBatch

ROOT = Path(__file__).parents[3]
WORDS = 300
SHAPE = {
    "vocab_size": WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
    "max_position_embeddings": 150,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": WORDS, "dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128, "max_position_embeddings": 150,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SHAPE),
    "camembert": ("Camembert", SHAPE | {"pad_token_id": 1}),
    "data2vec-text": ("Data2VecText", SHAPE | {"pad_token_id": 1}),
    "distilbert": ("DistilBert", DISTILBERT),
    "electra": ("Electra", SHAPE | {"embedding_size": 32}),
    "electra of one width": ("Electra", SHAPE | {"embedding_size": 64}),
    "ernie": ("Ernie", SHAPE | {"pad_token_id": 0}),
    "mpnet": ("MPNet", SHAPE),
    "roberta": ("Roberta", SHAPE | {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", SHAPE | {"pad_token_id": 1}),
    "xlm-roberta that pads with 3": ("XLMRoberta", SHAPE | {"pad_token_id": 3}),
}
LENGTHS = ([7], [3, 3, 3], [12, 12, 5, 5, 5, 31, 1], [60, 2, 140])


def build(name: str, dropout: float = 0.0) -> Any:
    """A small backbone in evaluation mode, its weights far enough from 0 that each token and position matters."""
    kind, options = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**options)
    for rate in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, rate):
            setattr(config, rate, dropout)
    torch.manual_seed(0)
    backbone = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    return backbone


def batch_of(lengths: Sequence[int], lowest: int = 0) -> TokenBatch:
    rng = random.Random(0)
    return TokenBatch.from_lists([[rng.randrange(lowest, WORDS) for _ in range(length)] for length in lengths])


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_kind_is_tried() -> None:
    assert {build(name).config.model_type for name in MODELS} == set(KINDS)


def runs(backbone: Any, backend: str) -> str:
    """What the table says of a backend; where this machine lacks what it needs, by the weights alone."""
    try:
        choose_backend(backbone, backend)
    except ConfigError as error:
        lacks = "this CPU" in str(error) or "no compiled kernel" in str(error)
        return "yes" if lacks else "no"
    return "yes"


def test_the_table_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").partition("| architecture |")[2]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if line[:2] == "| "]
    assert [row[1] for row in rows] == [*sorted({*KINDS, "modernbert"}), ""]
    for name, kind, *said in rows:
        model = build_kind(tmp_path, kind or "albert") if kind in ("modernbert", "") else build(kind)
        backbone = model.to(torch.bfloat16)
        trains = "no" if why_not_fused(backbone) else "yes"
        assert [*(runs(backbone, backend) for backend in ("torch", "native", "int8")), trains] == said, name


@pytest.mark.parametrize("cls_only", [False, True])
@pytest.mark.parametrize("layers", [(-1,), (0, 1, -1)])
def test_packed_is_its_own_forward(name: str, layers: tuple[int, ...], cls_only: bool) -> None:
    backbone = build(name)
    weights = BertWeights.from_hf(backbone)
    assert weights is not None
    packed = TorchPackedBackend(weights)
    with torch.no_grad():
        for lengths in LENGTHS:
            batch = batch_of(lengths)  # padding tokens inside: RoBERTa and its kin count them not
            expected = huggingface_states(backbone, batch, layers, cls_only=cls_only)
            torch.testing.assert_close(packed(batch, layers, cls_only=cls_only), expected, atol=2e-5, rtol=1e-4)


def test_the_longest_input_fills_the_table_of_positions(name: str) -> None:
    backbone = build(name)
    longest = longest_input(backbone.config, NO_LIMIT)
    batch = batch_of([longest], lowest=5)
    weights = BertWeights.from_hf(backbone)
    assert weights is not None
    assert int(weights.position_rows(batch.ids, batch.starts, batch.segments).max()) == 149
    with torch.no_grad():
        [expected] = huggingface_states(backbone, batch, (-1,))
        torch.testing.assert_close(TorchPackedBackend(weights)(batch, (-1,))[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_alone_is_as_in_a_batch(name: str, pooling: str) -> None:
    backbone, batch = build(name), batch_of([9, 4, 4, 33, 1])
    backend = prepared_backend(backbone, "torch", lambda: batch)
    together = pool(pooling, backend, batch)
    rows = [TokenBatch(ids, (len(ids),)) for ids in batch.ids.split(batch.lengths)]
    alone = torch.cat([pool(pooling, backend, row) for row in rows])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["torch", "native", "int8"])
@pytest.mark.parametrize("cls_only", [False, True])
def test_fast_backends_are_near(name: str, backend: str, cls_only: bool) -> None:
    """In bf16, or in fp32 where no kernel takes that, and in integers: cosines of token states with those in fp32."""
    backbone, batch = build(name), batch_of([9, 4, 4, 33, 140, 1], lowest=5)
    with torch.no_grad():
        [expected] = huggingface_states(backbone, batch, (-1,), cls_only=cls_only)
        if backend == "torch" or best_instruction_set() is not None:
            backbone = backbone.to(torch.bfloat16)
        weights = BertWeights.from_hf(backbone)
        assert weights is not None
        alone = backend == "native" or (backend == "int8" and not has_int8_products())  # torch cannot step in
        if alone and (reason := unfit(weights, int8=backend == "int8")) is not None:
            pytest.skip(reason)
        [got] = prepared_backend(backbone, backend, lambda: batch_of([40] * 8))(batch, (-1,), cls_only=cls_only)
    assert got.shape == expected.shape
    cosines = torch.cosine_similarity(got.float(), expected, dim=-1)
    assert cosines.min() > (0.97 if backend == "int8" else 0.998)


def states_and_gradients(
    backbone: Any, states: Any, batch: TokenBatch, **options: Any
) -> tuple[Any, dict[str, Tensor]]:
    """Of one pass, by a fixed random projection of the states."""
    backbone.zero_grad()
    out = states(backbone, batch, (0, -1), **options)
    generator = torch.Generator().manual_seed(1)
    sum((x * torch.randn(x.shape, generator=generator)).sum() for x in out).backward()
    return out, {key: weight.grad for key, weight in backbone.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("cls_only", [False, True])
def test_training_has_the_gradients_of_its_own_forward(name: str, cls_only: bool) -> None:
    backbone = build(name).train()
    assert why_not_fused(backbone) is None
    batch = batch_of([3, 12, 40, 7, 1, 60, 12], lowest=5)
    states, gradients = states_and_gradients(backbone, training_states, batch, cls_only=cls_only)
    expected, own = states_and_gradients(backbone, huggingface_states, batch, cls_only=cls_only)
    torch.testing.assert_close(states, expected, atol=2e-5, rtol=1e-4)
    assert gradients.keys() == own.keys()
    largest = max(float(gradient.norm()) for gradient in own.values())
    for key, gradient in own.items():
        scale = max(float(gradient.norm()), 1e-2 * largest)
        assert float((gradients[key] - gradient).norm()) < 2e-5 * scale, key


def test_dropout_is_where_its_own_forward_has_it(name: str) -> None:
    """Over many draws, the mean and the spread of the states are those of Hugging Face's, to a few standard errors."""
    backbone = build(name, dropout=0.2).train()
    with torch.no_grad():
        batch = TokenBatch(batch_of([3], lowest=5).ids.repeat(1000), (3,) * 1000)
        draws = [states(backbone, batch, (1, -1)) for states in (training_states, huggingface_states)]
    for pair in zip(*draws, strict=True):
        mine, own = (states.view(1000, -1) for states in pair)
        error = ((mine.var(0) + own.var(0)) / 1000).sqrt()
        assert ((mine.mean(0) - own.mean(0)).abs() < 5.5 * error + 1e-6).all()
        assert abs(float((mine.std(0) / own.std(0)).mean()) - 1) < 0.02


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("kind", "it has no pass for albert, only for bert, camembert, "),
        ("activation", "the activation of this bert is relu, not gelu"),
        ("positions", "the positions of this bert are relative_key, not absolute"),
        ("decoder", "this bert is a decoder"),
        ("hook", "this bert has a hook on encoder.layer.0"),
        ("adapter", "this bert has a Sequential in place of a Linear"),
        ("dropout", "this bert has a Identity in place of a Dropout"),
        ("names", "this bert is not as transformers builds it (BertLayer has no attribute `output`)"),
        ("bias", "this bert has a Linear without bias"),
        ("tasks", "this ernie is not as transformers builds it (it has task_type_embeddings)"),
    ],
)
def test_why_not(change: str, reason: str) -> None:
    backbone = build("bert")
    layer = backbone.encoder.layer[0]
    if change == "kind":
        config = transformers.AlbertConfig(vocab_size=9, embedding_size=8, hidden_size=8, num_attention_heads=1)
        backbone = transformers.AlbertModel(config)
    elif change == "activation":
        backbone.config.hidden_act = "relu"
    elif change == "positions":
        backbone.config.position_embedding_type = "relative_key"
    elif change == "decoder":
        backbone.config.is_decoder = True
    elif change == "hook":
        layer.register_forward_hook(lambda module, inputs, output: output)
    elif change == "adapter":
        layer.output.dense = nn.Sequential(layer.output.dense, nn.Identity())
    elif change == "dropout":
        layer.output.dropout = nn.Identity()
    elif change == "names":
        del layer.output
    elif change == "bias":
        layer.intermediate.dense = nn.Linear(64, 128, bias=False)
    else:
        backbone = transformers.ErnieModel(transformers.ErnieConfig(**SHAPE, use_task_id=True))
    assert BertWeights.from_hf(backbone) is None
    assert str(why_not_bert(backbone)).startswith(reason)


def test_nothing_against_a_fresh_one(name: str) -> None:
    assert why_not_bert(build(name)) is None


def test_hidden_states_asked_for_leave_it_fresh(name: str) -> None:
    """transformers hooks its own modules then, and leaves the hooks there."""
    backbone = build(name)
    backbone(input_ids=torch.tensor([[5, 6]]), output_hidden_states=True)
    assert why_not_bert(backbone) is None
