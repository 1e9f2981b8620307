"""Every grid builds the runs it describes; one is run from end to end; tables tell the order."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from tiny import WORDS
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from simcse.errors import ConfigError, SimCSEError

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


LICENCE = "  1 This software and database is being provided to you\n"
SENSES = f"""{LICENCE}00000010 05 n 03 woman 0 adult_female 0 lady(p) 0 001 @ 00000030 n 0000 | an adult
00000020 05 n 02 woman 0 maid 0 000 | one who serves
00000030 05 n 02 fox 0 slyboots 0 000 | a person
00000040 05 n 01 table 0 000 | alone
"""
INDEX = f"""{LICENCE}woman n 2 1 @ 2 1 00000010 00000020
adult_female n 1 1 @ 1 0 00000010
fox n 1 1 @ 1 0 00000030
table n 1 0 1 0 00000040
"""


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
    (folder / "wordnet").mkdir()
    for kind in ("noun", "verb", "adj", "adv"):
        (folder / "wordnet" / f"index.{kind}").write_text(INDEX if kind == "noun" else LICENCE)
        (folder / "wordnet" / f"data.{kind}").write_text(SENSES if kind == "noun" else LICENCE)
    return folder


def arguments(files: Path, model: Path, output: Path) -> list[str]:
    named = {"train": "train.txt", "triplets": "triplets.csv", "dev": "dev.tsv", "documents": "documents.jsonl"}
    return [
        *(part for option, name in named.items() for part in (f"--{option}", str(files / name))),
        "--wordnet", str(files / "wordnet"), "--model", str(model), "--steps", "2", "--batch_size", "4",
        "--runs", str(output / "runs"), "--output", str(output / "results"), "--seeds", "2",
    ]  # fmt: skip


@pytest.mark.parametrize("start", ["small-bert", "minilm"])
def test_every_variant_reaches_the_run(start: str, grids: ModuleType) -> None:
    """Each option of each row is in the configuration, and no two rows of a grid are the same run."""
    shared = {"data.train": "t", "$synonyms": "s", "$guesses": "g", "$sentences": "a", "$next_sentences": "b"}
    assert len(grids.GRIDS) == 11
    for name in grids.GRIDS:
        grid, seen = grids.read_grid(name), []
        for variant in grid.variants:
            config = grids.train_config(grid, variant, shared, start).as_dict()
            for key, value in variant.options.items():
                found = config
                for part in key.split("."):
                    found = found[part]
                assert found == shared.get(value, value) if isinstance(value, str) else found == value, (name, key)
            assert config not in seen
            seen.append(config)
            assert grid.source or variant.paper is None
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
    configs = [grids.train_config(grid, variant, {"data.train": "t"}, "minilm") for variant in grid.variants]
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
    assert grids.train_config(grid, row, {"data.train": "t", "$synonyms": None}, "minilm") is None
    with pytest.raises(ConfigError, match=r"found ablation 'dropouts', expected one of .*; did you mean 'dropout'"):
        grids.read_grid("dropouts")


@pytest.mark.parametrize("name", ["next-sentence", "encoders-sup", "objectives-sup"])
def test_a_grid_runs_and_goes_on(
    name: str, tiny_bert: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.ablations.__main__ import main

    main([name, *arguments(files, tiny_bert, tmp_path)])
    table = (tmp_path / "results" / f"{name}.md").read_text()
    assert table in capsys.readouterr().out
    numbers = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert {len(row["scores"]) for row in numbers["small-bert"]["variants"].values()} == {2}
    for variant in numbers["small-bert"]["variants"]:
        assert variant in table
    assert (tmp_path / "results" / f"{name}.svg").stat().st_size > 1000
    logs = sorted((tmp_path / "runs").rglob("log.jsonl"))
    written = [log.stat().st_mtime_ns for log in logs]
    older = yaml.safe_load((logs[0].parent / "config.yaml").read_text())
    del older["log_every"]  # as if the option had come later
    (logs[0].parent / "config.yaml").write_text(yaml.safe_dump(older))
    main([name, *arguments(files, tiny_bert, tmp_path)])
    assert [log.stat().st_mtime_ns for log in logs] == written  # nothing was trained again
    main([name, *arguments(files, tiny_bert, tmp_path), "--start", "minilm", "--seeds", "1"])
    assert list(json.loads((tmp_path / "results" / f"{name}.json").read_text())) == ["small-bert", "minilm"]
    assert "| MiniLM |" in (tmp_path / "results" / f"{name}.md").read_text()


def test_next_sentences_come_from_the_same_document(files: Path, tmp_path: Path) -> None:
    from benchmarks.ablations.documents import write_sentence_files

    texts, pairs = write_sentence_files(files / "documents.jsonl", tmp_path)
    documents = [json.loads(line)["text"] for line in (files / "documents.jsonl").read_text().splitlines()]
    rows = [line.split(",") for line in pairs.read_text().splitlines()[1:]]
    assert len(rows) == 12 * 3
    assert [anchor for anchor, _ in rows] == texts.read_text().splitlines()
    assert all(any(f"{anchor} {positive}" in document for document in documents) for anchor, positive in rows)


def test_a_start_made_anew_is_another_run(grids: ModuleType, tmp_path: Path) -> None:
    from benchmarks.ablations.__main__ import run_name

    grid = grids.read_grid("dropout")
    config = grids.train_config(grid, grid.variants[0], {"model.name": str(tmp_path)}, "small-bert")
    names = [run_name(config)]
    for weights in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        names.append(run_name(config))
    assert len(set(names)) == 3


def test_synonyms_are_of_the_first_sense(files: Path, tmp_path: Path) -> None:
    """No words of two parts, none of a later sense, nothing for short ones, which are mostly not nouns in a text."""
    from benchmarks.ablations.changed import write_synonyms

    assert write_synonyms(files / "wordnet", tmp_path / "synonyms.txt").read_text() == "woman\tlady\n"
    with pytest.raises(SimCSEError, match=r"index.noun: no such file; expected WordNet's dict folder"):
        write_synonyms(tmp_path, tmp_path / "synonyms.txt")


def test_guesses_change_some_pieces(files: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """With the weights of a head, a tiny model guesses; what was not hidden stays."""
    from benchmarks.ablations.changed import guess_anew, write_guesses

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig.from_pretrained(tiny_bert)).eval()
    model.save_pretrained(tmp_path / "mlm")
    tokenizer.save_pretrained(tmp_path / "mlm")
    written = write_guesses(str(tmp_path / "mlm"), files / "train.txt", 20, tmp_path / "g.csv").read_text()
    rows = list(csv.reader(written.splitlines()))
    assert rows[0] == ["anchor", "positive"]
    assert [anchor for anchor, _ in rows[1:]] == (files / "train.txt").read_text().splitlines()[:20]
    texts = ["the dog runs in the park"] * 200
    before = tokenizer(texts, return_tensors="pt").input_ids
    after = guess_anew(model, tokenizer, texts, torch.Generator().manual_seed(0))
    assert 0.1 < (before != after).float().mean() <= 0.17
    assert (before == after)[:, [0, -1]].all()


def test_what_an_encoder_goes_by(tiny_bert: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two pairs by hand; an encoder of equal texts goes by nothing else."""
    from benchmarks.ablations.surface import main, surface
    from simcse.data.pairs import ScoredPairs

    pairs = ScoredPairs(["a b c", "x y"], ["a d", "z y"], np.array([1.0, 2.0]), "hand")
    found = {name: values.tolist() for name, values in surface(pairs).items()}
    assert found == {"length": [-1, 0], "words in common": [1 / 4, 1 / 3], "first word": [1.0, 0.0]}
    main([f"{tiny_bert}:mean", "--dev", str(files / "dev.tsv")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| people | 100.0 | ")
    assert lines[3].startswith(f"| {tiny_bert}:mean | ")


def test_the_table_says_how_much_of_the_order_shows(grids: ModuleType, tmp_path: Path) -> None:
    """Paper 1 < 2 < 3; here the last two are swapped: 2 of 3 pairs, and one of the two that the seeds tell apart."""
    from benchmarks.ablations.table import Column, Row, order, read_columns, write_results

    rows = [grids.Variant(name, paper, {}) for name, paper in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", None))]
    grid = grids.Grid("own", "Own", "paper", "unsup", rows)
    assert grid.reference.name == "c"
    scores = {"a": [10.0, 12.0], "b": [30.0, 32.1], "c": [20.0, 22.0], "d": [5.0, 6.0]}
    small = Column("small BERT", "so.", {name: Row(found, 0.5) for name, found in scores.items()}, {})
    mini = Column("MiniLM", "so.", {name: Row([float(n)], 0.5) for n, name in enumerate("abc")}, {})
    said = "2 of 3 pairs of variants stand in the paper's order"
    assert order(grid, small) == f"{said}; of the 3 that the seeds tell apart, 2 do."
    assert order(grid, mini) == "3 of 3 pairs of variants stand in the paper's order."
    table = write_results(grid, {"small-bert": small, "minilm": mini}, tmp_path)
    assert "| variant | paper | small BERT | std | against c | small BERT, before | MiniLM | MiniLM, before |" in table
    assert "| a | 1.0 | 11.00 | 1.41 | -10.00 [-10.00, -10.00] | 0.50 | 0.00 | 0.50 |" in table
    assert "| b | 2.0 | **31.05** | 1.48 | +10.05 [+9.41, +10.69] | 0.50 | 1.00 | 0.50 |" in table
    assert "| d |  | 5.50 | 0.71 | -15.50 [-21.85, -9.15] | 0.50 |  |  |" in table
    assert read_columns(tmp_path / "own.json") == {"small-bert": small, "minilm": mini}
    twice = write_results(grid, {"small-bert": small, "minilm": small}, tmp_path)
    assert twice.count(" std | against c |") == 2
    assert (tmp_path / "own.svg").stat().st_size > 1000


def test_without_the_paper_variants_are_set_against_the_first(grids: ModuleType, tmp_path: Path) -> None:
    """Differences 3 and 5: mean 4, std sqrt(2), so the 95 % interval is 4 -+ 12.706 * sqrt(2) / sqrt(2)."""
    from benchmarks.ablations.table import Column, Row, to_markdown

    grid = grids.Grid("own", "Own", None, "unsup", [grids.Variant(name, None, {}) for name in "ab"])
    column = Column("MiniLM", "about.", {"a": Row([10.0, 12.0], 0.5), "b": Row([13.0, 17.0], 0.5)}, {})
    table = to_markdown(grid, [column])
    assert "Spearman × 100.\nMiniLM: about.\n" in table
    assert "| variant | MiniLM | std | against a | MiniLM, before |" in table
    assert "| a | 11.00 | 1.41 |  | 0.50 |" in table
    assert "| b | **15.00** | 2.83 | +4.00 [-8.71, +16.71] | 0.50 |" in table
    assert "paper" not in table
