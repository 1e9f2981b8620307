"""Whitening against its definition, the flow's density against autograd, and both through a save and a load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simcse.errors import ConfigError, DataError, ModelError
from simcse.evaluation.flow import Flow, fit_flow
from simcse.evaluation.geometry import mean_cosine
from simcse.evaluation.postprocess import Fitted, fit

Encode = Callable[[list[str]], np.ndarray]

TEXTS = [f"text {i}" for i in range(400)]


def skewed(d: int = 6) -> Encode:
    """Vectors in a narrow cone: a large common offset, and variances that fall by a factor of 4 an axis."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    table = (rng.normal(size=(400, d)) * 0.5 ** np.arange(d)) @ rotation + 5

    return lambda texts: table[[int(text.split()[1]) for text in texts]]


def test_whitened_vectors_have_mean_zero_and_the_identity_for_covariance() -> None:
    encode = skewed()
    fitted = fit(encode, TEXTS)
    white = fitted.apply(encode(TEXTS))
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T), np.eye(6), atol=1e-3)
    assert fitted.metadata["kept_variance"] == pytest.approx(1)


def test_the_cut_keeps_the_axes_of_largest_variance() -> None:
    """Variances fall as 1, 1/4, 1/16, ...: two axes keep (1 + 1/4) / (1 + 1/4 + ... + 1/1024), nearly."""
    encode = skewed()
    fitted = fit(encode, TEXTS, dimensions=2)
    assert fitted.apply(encode(TEXTS)).shape == (400, 2)
    assert fitted.metadata["kept_variance"] == pytest.approx(1.25 / sum(0.25**i for i in range(6)), abs=0.02)
    whole = fit(encode, TEXTS).apply(encode(TEXTS))
    np.testing.assert_allclose(fitted.apply(encode(TEXTS)), whole[:, :2], atol=1e-4)


@pytest.mark.parametrize("kind", ["whitening", "flow"])
def test_the_map_of_an_encoder_is_an_encoder_without_anisotropy(kind: str) -> None:
    encode = skewed()
    mapped = fit(encode, TEXTS, kind=kind)(encode)
    vectors = mapped(TEXTS[:100])
    assert vectors.shape == (100, 6)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    raw = encode(TEXTS)
    assert mean_cosine((raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)) > 0.9
    assert abs(mean_cosine(vectors)) < 0.05


def test_directions_without_variance_are_left_out() -> None:
    encode = skewed()
    fitted = fit(lambda texts: np.concatenate([encode(texts), np.ones((len(texts), 1))], axis=1), TEXTS)
    assert fitted.metadata["k"] == 6


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 7), st.integers(1, 3), st.integers(0, 100))
def test_the_flow_knows_its_own_determinant(d: int, blocks: int, seed: int) -> None:
    """log |det| of the Jacobian that autograd finds, with random weights in the couplings."""
    torch.manual_seed(seed)
    flow = Flow(d, blocks, hidden=8).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    flow.mean.normal_()
    flow.log_std.normal_()
    for name, buffer in flow.named_buffers():
        if name.startswith("rotation"):  # orthogonal in float64 too
            buffer.copy_(torch.linalg.qr(buffer)[0])
    x = torch.randn(1, d, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda row: flow(row)[0].sum(dim=0), x)[:, 0]
    assert flow(x)[1].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-8)


def test_the_flow_finds_the_density_of_a_gaussian() -> None:
    """The best nll is the entropy, here of a correlated Gaussian: (log 2 pi e + log det / d) / 2 nats a dimension."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 2, generator=generator) @ torch.linalg.cholesky(covariance).T
    flow, found = fit_flow(x, epochs=20, hidden=32)
    entropy = 0.5 * (np.log(2 * np.pi * np.e) + float(torch.logdet(covariance)) / 2)
    assert found["nll_before"] > entropy + 0.2  # a variance for each dimension knows no correlation
    assert found["nll_after"] == pytest.approx(entropy, abs=0.06)
    z = flow(x)[0]
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.12)


def test_fitting_a_flow_leaves_the_random_state_alone_and_repeats() -> None:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    first, again = fit_flow(x, epochs=2)[0], fit_flow(x, epochs=2)[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first(x)[0], again(x)[0])


@pytest.mark.parametrize("kind", ["whitening", "flow"])
def test_a_saved_map_gives_the_same_vectors(kind: str, tmp_path: Path) -> None:
    encode = skewed()
    fitted = fit(encode, TEXTS, kind=kind, metadata={"encoder": "somewhere"})
    loaded = Fitted.load(fitted.save(tmp_path / "map"))
    np.testing.assert_array_equal(loaded(encode)(TEXTS), fitted(encode)(TEXTS))
    assert loaded.metadata == fitted.metadata
    assert loaded.metadata["encoder"] == "somewhere"
    assert sorted(path.name for path in (tmp_path / "map").iterdir()) == ["postprocess.json", "postprocess.safetensors"]


def test_torch_tensors_are_taken_too() -> None:
    encode = skewed()
    fitted = fit(lambda texts: torch.from_numpy(encode(texts)).bfloat16(), TEXTS)
    assert fitted.apply(encode(TEXTS)).shape == (400, 6)


def test_bad_fits_are_refused() -> None:
    encode = skewed()
    with pytest.raises(DataError, match="found 6 distinct texts, expected more than the 6 dimensions"):
        fit(encode, TEXTS[:6] * 3)
    assert fit(encode, TEXTS[:6], dimensions=3).metadata["k"] == 3
    with pytest.raises(DataError, match="found 1 distinct texts"):
        fit(encode, TEXTS[:1])
    with pytest.raises(ConfigError, match="dimensions is 7: the encoder has 6"):
        fit(encode, TEXTS, dimensions=7)
    with pytest.raises(ConfigError, match="kind: found 'whiten', expected flow or whitening; did you mean"):
        fit(encode, TEXTS, kind="whiten")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dimensions is 3, but a flow keeps them all"):
        fit(encode, TEXTS, kind="flow", dimensions=3)
    with pytest.raises(DataError, match="found 10 distinct texts of dimension 6, a flow needs at least 20"):
        fit(encode, TEXTS[:10], kind="flow")
    with pytest.raises(DataError, match="all 400 texts are equal"):
        fit(lambda texts: np.ones((len(texts), 4)), TEXTS)
    with pytest.raises(ModelError, match="text 1 'text 0': its vector is NaN"):
        fit(lambda texts: np.full((len(texts), 4), np.nan), TEXTS)
    with pytest.raises(ModelError, match=r"fitted on vectors of dimension 6, found shape \(2, 3\)"):
        fit(encode, TEXTS).apply(np.ones((2, 3)))


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no postprocess\.json there"):
        Fitted.load(tmp_path)
    folder = fit(skewed(), TEXTS).save(tmp_path / "map")
    weights = (folder / "postprocess.safetensors").read_bytes()
    (folder / "postprocess.safetensors").write_bytes(weights[:20])
    with pytest.raises(ModelError, match="map: damaged"):
        Fitted.load(folder)
    (folder / "postprocess.safetensors").write_bytes(weights)
    whole = json.loads((folder / "postprocess.json").read_text())
    for content in (
        b"", b"\xff", b"null", b"[]", b"1", b"[" * 50_000, b"9" * 5000, *(
            json.dumps(whole | changed).encode()
            for changed in ({"d": None}, {"d": 5}, {"d": -1}, {"k": 5}, {"texts": ""}, {"kind": "flow"}, {"encoder": 5})
        ),
    ):  # fmt: skip
        (folder / "postprocess.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"map: damaged .*fit it anew"):
            Fitted.load(folder)
    (folder / "postprocess.json").write_text(json.dumps({"kind": "magic", "d": 6}))
    with pytest.raises(ModelError, match="kind 'magic' is not one of flow, whitening"):
        Fitted.load(folder)
