"""The lines of docs/loading.md give SentenceEncoder's vectors, and no library misses a weight or has one left over."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kinds import build
from transformers.utils import logging as transformers_logging

from simcse import SentenceEncoder
from simcse.cli import main
from simcse.encoder import pooling
from simcse.encoder.projection import Projection

PAGE = (Path(__file__).parents[1] / "docs" / "loading.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^#+ ([^\n]+)\n(?:(?!^#).)*?^```python\n(.*?)^```", PAGE, flags=re.S | re.M))
COMMANDS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^#).)*?^```sh\n(.*?)^```", PAGE, flags=re.S | re.M))
POOLINGS = ("cls", "mean", "last_token", "first_last_mean", "top2_mean")
# kind of backbone, pooling, width of the head
CASES = [
    *(("bert", how, width) for how in POOLINGS for width in (None, 16)),
    ("bert", "cls", 32),
    ("roberta", "cls", 32),
    ("mpnet", "cls", None),
    ("albert", "mean", None),
    ("distilbert", "cls", 32),
    ("deberta-v2", "first_last_mean", None),
    ("modernbert", "mean", None),
    ("qwen2", "last_token", 16),
    ("gpt2", "mean", None),
    ("t5", "mean", None),
]
# what needs no lines for a pooling; the graph is exported by the lines before those of `backend="onnx"`
THEMSELVES = [
    ("simcse",), ("sentence-transformers",), ("ONNX Runtime",), ('backend="onnx"',), ("ONNX Runtime", "OpenVINO"),
]  # fmt: skip
IDS = [f"{kind}-{how}-{width or 'no'} head" for kind, how, width in CASES]


def checkpoint(folder: Path, kind: str, how: str, width: int | None) -> SentenceEncoder:
    build(folder / "plain", kind)
    encoder = SentenceEncoder.from_pretrained(folder / "plain", pooling=how, max_length=20, device="cpu", dtype="fp32")
    if width is not None:
        torch.manual_seed(3)
        encoder.projection = Projection(encoder.width, width)
        torch.nn.init.normal_(encoder.projection.linear.weight, std=0.2)
        torch.nn.init.normal_(encoder.projection.linear.bias)
    encoder.save_pretrained(folder / "best")
    return encoder


def run(folder: Path, texts: list[str], *headings: str, kind: str = "") -> np.ndarray:
    """`vectors`, by the lines under these headings, in a folder that holds best/."""
    for heading in headings:
        words = COMMANDS.get(heading, "").replace("runs/mine/", f"{folder}/").split()[1:]
        assert not words or Path(words[-1]).exists() or main(words) == 0
    code = "".join(BLOCKS[heading] for heading in headings).replace("runs/mine/", f"{folder}/")
    if kind == "t5":
        assert "load it by `AutoModelForTextEncoding` in place of `AutoModel`" in PAGE
        code = code.replace("AutoModel", "AutoModelForTextEncoding")
    values: dict[str, Any] = {"texts": texts}
    exec(code, values)
    return np.asarray(values["vectors"])


@pytest.fixture
def no_reports(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    """Nothing that a library logs or prints says that a weight is missing, unexpected or new."""
    transformers_logging.enable_propagation()  # type: ignore[no-untyped-call]
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    transformers_logging.disable_propagation()  # type: ignore[no-untyped-call]
    said = [*(record.getMessage() for record in caplog.records), *capfd.readouterr(), *(str(w.message) for w in caught)]
    assert not [text for text in said if re.search(r"MISSING|UNEXPECTED|LOAD REPORT|newly initialized", text)]


def test_a_report_would_be_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A plain T5 in AutoModel: the fixture's pattern finds what transformers says then."""
    checkpoint(tmp_path, "t5", "mean", None)
    transformers_logging.enable_propagation()  # type: ignore[no-untyped-call]
    with caplog.at_level(logging.INFO), pytest.raises(ValueError):  # noqa: PT011 -- its decoder has no tokens to read
        run(tmp_path, ["a"], "transformers", "mean", "vectors")
    transformers_logging.disable_propagation()  # type: ignore[no-untyped-call]
    assert re.search(r"LOAD REPORT", caplog.text)
    assert "MISSING" in caplog.text


@pytest.mark.usefixtures("no_reports")
@pytest.mark.parametrize(("kind", "how", "width"), CASES, ids=IDS)
def test_vectors_are_ours(tmp_path: Path, sentences: list[str], kind: str, how: str, width: int | None) -> None:
    """Texts of all lengths in one batch, one that is cut, and an empty one where that has tokens."""
    encoder = checkpoint(tmp_path, kind, how, width)
    texts = [*sentences[:9], "the man " * 20, *([] if kind in ("qwen2", "gpt2") else [""])]
    expected = encoder.encode(texts)
    head = () if width is None else ("head",)
    ways: list[tuple[str, ...]] = [*THEMSELVES]
    ways.append(("transformers", how, *head, "vectors"))
    if how == "cls" and width == encoder.width and kind in ("bert", "roberta"):
        ways.append(("transformers", "cls and head", "vectors"))
    for headings in ways:
        np.testing.assert_allclose(
            run(tmp_path, texts, *headings, kind=kind), expected, atol=1e-4, err_msg=str(headings)
        )


@pytest.mark.usefixtures("no_reports")
@pytest.mark.parametrize("include", [True, False])
def test_a_default_prompt_and_kept_dimensions(
    tmp_path: Path, sentences: list[str], include: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = checkpoint(tmp_path, "bert", "mean", None)
    encoder.prompts, encoder.default_prompt_name = {"query": "two people: "}, "query"
    encoder.truncate_dim, encoder.include_prompt = 10, include
    encoder.save_pretrained(tmp_path / "best")
    expected = encoder.encode(sentences[:9])
    if not include:
        line, inputs = re.findall(r"`(mask\[.*?|dict\(.*?)`", PAGE)
        count = f"import numpy\nn = {len(encoder.tokenizer('two people: ').input_ids) - 1}\n"
        monkeypatch.setitem(BLOCKS, "left out", f"{count}{line}\n")
        for name in ("ONNX Runtime", "OpenVINO"):
            monkeypatch.setitem(BLOCKS, name, count + BLOCKS[name].replace("dict(tokens)", inputs))
    for way in THEMSELVES:
        np.testing.assert_allclose(run(tmp_path, sentences[:9], *way), expected, atol=1e-4, err_msg=str(way))
    lines = ("transformers", *(() if include else ("left out",)), "mean", "vectors")
    np.testing.assert_allclose(run(tmp_path, sentences[:9], *lines), expected, atol=1e-4)


def test_every_pooling_is_there() -> None:
    assert BLOCKS.keys() >= pooling.POOLINGS.keys() == set(POOLINGS)
