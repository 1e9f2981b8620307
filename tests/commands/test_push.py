"""A checkpoint goes to a hub on loopback with its card, comes back with the same vectors; mistakes are one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_hub import Hub, serving_hub

from simcse import SentenceEncoder
from simcse.cli import main

SENTENCES = ["a man plays the guitar", "two dogs"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as hub:
        hub.lead(monkeypatch)
        yield hub


@pytest.fixture
def run(tiny_bert: Path, tmp_path: Path) -> Path:
    """A run's folder, of which best/ is what is pushed."""
    encoder = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32")
    best = encoder.save_pretrained(tmp_path / "run" / "best")
    (best / "README.md").write_text(f'---\ntags: [simcse]\n---\n\nSentenceTransformer("{best}").encode(texts)\n')
    return best.parent


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # huggingface_hub's own use of httpx
def test_what_is_pushed_is_the_encoder_with_a_card_that_names_the_repository(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "best" / "trainer.pt").write_text("state")
    assert main(["push", str(run), "someone/mine", "--private"]) == 0, capsys.readouterr().err
    assert "someone/mine/commit/" in capsys.readouterr().out
    assert hub.private == {"someone/mine": True}
    files = {name.removeprefix("someone/mine/"): content for name, content in hub.files.items()}
    assert set(files) == {
        file.relative_to(run / "best").as_posix() for file in (run / "best").rglob("*") if file.is_file()
    } - {"trainer.pt"}
    assert files["README.md"].decode().endswith('SentenceTransformer("someone/mine").encode(texts)\n')
    for name, content in files.items():
        (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / name).write_bytes(content)
    ours, theirs = (
        SentenceEncoder.from_pretrained(folder, device="cpu", dtype="fp32").encode(SENTENCES)
        for folder in (run / "best", tmp_path / "again")
    )
    np.testing.assert_array_equal(ours, theirs)


def test_a_token_that_is_refused_is_one_line(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    capsys.readouterr()
    assert main(["push", str(run), "someone/mine"]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "no model card" not in line]
    assert line.startswith("error: someone/mine: the hub answered 401")
    assert line.endswith("the token must be allowed to write there")
    assert not hub.files
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert main(["push", str(run), "someone/mine"]) == 1
    assert "someone/mine: not pushed (" in capsys.readouterr().err


def test_without_a_token_nothing_is_asked(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert main(["push", str(run), "someone/mine"]) == 2
    said = capsys.readouterr().err
    assert said == "error: someone/mine: pushing needs a token; set HF_TOKEN, or log in by hf auth login\n"
    monkeypatch.setenv("HF_TOKEN", "hf_any")
    assert main(["push", str(run), "someone/mine"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_a_damaged_or_foreign_folder_is_refused(
    run: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_any")
    assert main(["push", str(tiny_bert), "someone/mine"]) == 1
    assert "no simcse.json there" in capsys.readouterr().err
    (run / "best" / "config.json").write_text("{}")
    assert main(["push", str(run), "someone/mine"]) == 1
    assert "config.json: not the file that was saved" in capsys.readouterr().err
