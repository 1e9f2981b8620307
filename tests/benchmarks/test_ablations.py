"""Every grid builds the runs it describes; one is run from end to end; tables tell the order."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from tiny import WORDS

from simcse.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def root_on_path() -> None:
    """benchmarks/ is run from the root, as `python -m benchmarks.ablations`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


@pytest.fixture(scope="module")
def grids(root_on_path: None) -> ModuleType:
    from benchmarks.ablations import grid

    return grid


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(4, 8)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences, triplets, scored pairs, documents and synonyms."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    (folder / "train.txt").write_text("".join(f"{sentence(rng)} {i}\n" for i in range(40)))
    rows = "".join(f"{sentence(rng)} {i},{sentence(rng)} {i},{sentence(rng)}\n" for i in range(40))
    (folder / "triplets.csv").write_text("sent0,sent1,hard_neg\n" + rows)
    (folder / "dev.tsv").write_text(
        "".join(f"{sentence(rng)}\t{sentence(rng)}\t{rng.random() * 5}\n" for _ in range(20))
    )
    documents = [". ".join(sentence(rng).capitalize() for _ in range(4)) + "." for _ in range(12)]
    (folder / "documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    (folder / "synonyms.txt").write_text("dog\thound\nman\tfellow\n")
    return folder


def arguments(files: Path, model: Path, output: Path) -> list[str]:
    named = {"train": "train.txt", "triplets": "triplets.csv", "dev": "dev.tsv", "documents": "documents.jsonl"}
    return [
        *(part for option, name in named.items() for part in (f"--{option}", str(files / name))),
        "--synonyms", str(files / "synonyms.txt"), "--model", str(model), "--steps", "2", "--batch_size", "4",
        "--runs", str(output / "runs"), "--output", str(output / "results"),
    ]  # fmt: skip


def test_every_variant_reaches_the_run(grids: ModuleType) -> None:
    """Each option of each row is in the configuration, and no two rows of a grid are the same run."""
    shared = {"data.train": "t", "$synonyms": "s", "$sentences": "a", "$next_sentences": "b"}
    assert len(grids.GRIDS) == 11
    for name in grids.GRIDS:
        grid, seen = grids.read_grid(name), []
        for variant in grid.variants:
            config = grids.train_config(grid, variant, shared).as_dict()
            for key, value in variant.options.items():
                found = config
                for part in key.split("."):
                    found = found[part]
                assert found == shared.get(value, value) if isinstance(value, str) else found == value, (name, key)
            assert config not in seen
            seen.append(config)
            assert (variant.paper is not None) == (grid.source is not None)
            assert variant.paper is None or 40 < variant.paper < 90


def test_every_grid_opens_with_its_command(grids: ModuleType) -> None:
    for name in grids.GRIDS:
        text = (ROOT / "configs" / "ablations" / f"{name}.yaml").read_text(encoding="utf-8")
        assert f"#     python -m benchmarks.ablations {name} --data_dir data" in text
        assert "# Expect" in text
        assert set(yaml.safe_load(text)) <= {"title", "source", "base", "options", "variants"}


@pytest.mark.parametrize("name", ["objectives-unsup", "objectives-sup"])
def test_every_objective_of_the_table_is_built(name: str, grids: ModuleType) -> None:
    """SCE, NT-Xent, LS, BC, NCE, NS, SANS, DCL, margin: nine rows, each a loss that its arguments fit."""
    from simcse.training.build_loss import build_loss

    grid = grids.read_grid(name)
    configs = [grids.train_config(grid, variant, {"data.train": "t"}) for variant in grid.variants]
    for config in configs:
        build_loss(config)
    objectives = (
        "softmax softmax label_smoothed backward_corrected noise_contrastive negative_sampling self_adversarial"
    )
    assert [config.objective for config in configs] == [*objectives.split(), "decoupled", "margin"]
    assert [config.candidates for config in configs] == ["in_batch", "all_views", *["in_batch"] * 7]


def test_without_names_only_the_papers_are_run(
    files: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.ablations import __main__ as command

    ran: list[str] = []
    monkeypatch.setattr(command, "run_grid", lambda grid, shared, options: ran.append(grid.name))
    command.main(arguments(files, tiny_bert, tmp_path))
    assert ran == [name for name in command.GRIDS if not name.startswith("objectives")]
    assert len(ran) == 9


def test_a_row_without_its_file_is_left_out(grids: ModuleType) -> None:
    grid = grids.read_grid("positives")
    [row] = [variant for variant in grid.variants if variant.name == "synonyms"]
    assert grids.train_config(grid, row, {"data.train": "t", "$synonyms": None}) is None
    with pytest.raises(ConfigError, match=r"found ablation 'dropouts', expected one of .*; did you mean 'dropout'"):
        grids.read_grid("dropouts")


@pytest.mark.parametrize("name", ["next-sentence", "encoders-sup", "objectives-sup"])
def test_a_grid_runs_and_goes_on(
    name: str, tiny_bert: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.ablations.__main__ import main

    main([name, *arguments(files, tiny_bert, tmp_path), "--seeds", "2"])
    table = (tmp_path / "results" / f"{name}.md").read_text()
    assert table in capsys.readouterr().out
    numbers = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert {len(row["scores"]) for row in numbers["variants"]} == {2}
    for row in numbers["variants"]:
        assert row["name"] in table
    assert (tmp_path / "results" / f"{name}.svg").stat().st_size > 1000
    logs = sorted((tmp_path / "runs").rglob("log.jsonl"))
    written = [log.stat().st_mtime_ns for log in logs]
    older = yaml.safe_load((logs[0].parent / "config.yaml").read_text())
    del older["log_every"]  # as if the option had come later
    (logs[0].parent / "config.yaml").write_text(yaml.safe_dump(older))
    main([name, *arguments(files, tiny_bert, tmp_path), "--seeds", "2"])
    assert [log.stat().st_mtime_ns for log in logs] == written  # nothing was trained again
    with pytest.raises(ConfigError, match="holds a run with other options"):
        main([name, *arguments(files, tiny_bert, tmp_path), "--batch_size", "8"])


def test_next_sentences_come_from_the_same_document(files: Path, tmp_path: Path) -> None:
    from benchmarks.ablations.documents import write_sentence_files

    texts, pairs = write_sentence_files(files / "documents.jsonl", tmp_path)
    documents = [json.loads(line)["text"] for line in (files / "documents.jsonl").read_text().splitlines()]
    rows = [line.split(",") for line in pairs.read_text().splitlines()[1:]]
    assert len(rows) == 12 * 3
    assert [anchor for anchor, _ in rows] == texts.read_text().splitlines()
    assert all(any(f"{anchor} {positive}" in document for document in documents) for anchor, positive in rows)


def test_the_table_says_how_much_of_the_order_shows(grids: ModuleType) -> None:
    """Paper 1 < 2 < 3; here the last two are swapped: 2 of 3 pairs, tau = (2 - 1) / 3."""
    from benchmarks.ablations.table import Outcome, order, to_markdown

    grid = grids.read_grid("dropout")
    rows = [grids.Variant(name, paper, {}) for name, paper in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    outcomes = [Outcome(row, scores, 0.5) for row, scores in zip(rows, ([10.0, 12.0], [30.0], [20.0]), strict=True)]
    assert order(outcomes) == "2 of 3 pairs of variants stand in the paper's order (Kendall's tau +0.33)."
    table = to_markdown(grid, outcomes, "")
    assert "| variant | paper | here | std | min | max | before training |" in table
    assert "| a | 1.0 | 11.00 | 1.41 | 10.00 | 12.00 | 0.50 |" in table
    assert "| b | 2.0 | **30.00** |  | 30.00 | 30.00 | 0.50 |" in table
    assert "| c | **3.0** | 20.00 |  | 20.00 | 20.00 | 0.50 |" in table


def test_without_the_paper_variants_are_set_against_the_first(grids: ModuleType, tmp_path: Path) -> None:
    """Differences 3 and 5: mean 4, std sqrt(2), so the 95 % interval is 4 -+ 12.706 * sqrt(2) / sqrt(2)."""
    from benchmarks.ablations.table import Outcome, draw, to_markdown

    grid = grids.Grid("own", "Own", None, "minilm-unsup", [])
    rows = [grids.Variant(name, None, {}) for name in "ab"]
    table = to_markdown(grid, [Outcome(rows[0], [10.0, 12.0], 0.5), Outcome(rows[1], [13.0, 17.0], 0.5)], "About.")
    assert "Spearman × 100. About." in table
    assert "| variant | here | std | min | max | against a | before training |" in table
    assert "| a | 11.00 | 1.41 | 10.00 | 12.00 |  | 0.50 |" in table
    assert "| b | **15.00** | 2.83 | 13.00 | 17.00 | +4.00 [-8.71, +16.71] | 0.50 |" in table
    assert "paper" not in table
    once = [Outcome(row, [10.0], 0.5) for row in rows]
    assert "| variant | here | before training |" in to_markdown(grid, once, "")
    for number, outcomes in enumerate(([Outcome(rows[0], [10.0, 12.0], 0.5)], once)):
        [figure] = draw(grid, outcomes, tmp_path / str(number))
        assert figure.stat().st_size > 1000
