"""Recipes by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from simcse.cli import main
from simcse.commands.recipes import recipe_files

ROOT = Path(__file__).parents[2]


def test_recipes_are_listed_with_what_to_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line for line in lines if not line.startswith(" ")]
    assert names == list(recipe_files())
    assert sorted(names) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    said = " ".join("\n".join(lines).split())
    assert "minilm-unsup Unsupervised SimCSE of all-MiniLM-L6-v2 read at [CLS]" in said
    assert "Expect STS-B dev to rise from 79.7 to above 84 (Spearman x 100)" in said
    assert said.count("xpect") == len(names)


@pytest.mark.parametrize("option", ["--config=unsup-bert-base", "--config unsup-bert-base", "--config {path}"])
def test_a_recipe_is_named_or_a_file(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = ROOT / "configs" / "unsup-bert-base.yaml"
    assert main(["train", *option.format(path=path).split(), "--optim.lr", "0.5", "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "output_dir: runs/unsup-bert-base" in printed
    assert "lr: 0.5" in printed


def test_a_file_goes_before_a_recipe_of_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("seed: 7\n")
    assert main(["train", "--config", "quickstart", "--print_config"]) == 0
    assert "seed: 7" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["minilm-unsop", "configs/minilm-unsop.yaml"])
def test_an_unknown_recipe_is_an_error_that_lists_them(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", name]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --config {name}: no such file, and no recipe; recipes are best-unsup, ")
    assert line.endswith("did you mean 'minilm-unsup'?")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"optim: [\n", "line 2: no YAML (expected the node content"),
        (b"# \xe9\n", ": is not UTF-8 ("),
    ],
)
def test_a_config_that_is_no_yaml(
    content: bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert main(["train", "--config", str(file)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --config {file}")
    assert told in line
