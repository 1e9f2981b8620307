"""The `simcse` command as it is typed: in a process of its own where pipes matter, else through `main`."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from simcse import SearchIndex, SentenceEncoder
from simcse.cli import COMMANDS, build_parser, main
from simcse.encoder.backends.cpu_features import has_int8_products

ROOT = Path(__file__).parents[1]
TEXTS = ["a man plays the guitar", "a woman plays the piano", "rain falls on the city", "the sun is over the mountain"]


def simcse(*arguments, stdin=b""):
    """Run it in a process; returns status, stdout as bytes, stderr as text."""
    command = [sys.executable, "-m", "simcse", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, env={**os.environ, "COLUMNS": "80"})
    return done.returncode, done.stdout, done.stderr.decode()


def printed(capsys, *arguments, stdin=b""):
    """Run it here; returns status, stdout, stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def docs(tmp_path):
    path = tmp_path / "docs.jsonl"
    rows = [
        {"id": f"d{i}", "text": text, "lang": "en" if i % 2 else "de", "year": 2000 + i} for i, text in enumerate(TEXTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def built(capsys, docs, tmp_path, tiny_bert):
    folder = tmp_path / "idx"
    status, out, err = printed(capsys, "index", "build", "--model", tiny_bert, "--input", docs, "--output", folder)
    assert (status, out) == (0, "")
    assert err.startswith(f"{folder}: 4 texts, dimension 32; exact search: 4 rows are compared")
    return folder


def leaves(commands=COMMANDS, path=()):
    for name, entry in commands.items():
        if isinstance(entry, tuple) and isinstance(entry[1], dict) and not callable(entry[0]):
            yield from leaves(entry[1], (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("command", [(), ("index",), *leaves()], ids=" ".join)
def test_help_explains_every_option_within_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = printed(capsys, *command, "--help")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    if command in list(leaves()):
        parser = build_parser()
        for name in command:
            parser = next(a.choices for a in parser._actions if isinstance(a.choices, dict) and name in a.choices)[name]
        assert all(action.help for action in parser._actions)


def test_help_imports_nothing_heavy():
    code = "import sys; from simcse.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "datasets", "faiss", "scipy", "sklearn", "matplotlib", "numpy", "pyarrow"}
    assert not heavy & set(done.stderr.split())


def test_encode_to_a_file(capsys, tmp_path, tiny_bert):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[:3]) + "\n")
    (tmp_path / "b.csv").write_text(f"n,text\n1,{TEXTS[3]}\n")
    inputs = tmp_path / "a.txt", tmp_path / "b.csv"
    status, _, err = printed(capsys, "encode", *inputs, "--model", tiny_bert, "--output", tmp_path / "v.npy")
    assert status == 0
    assert "v.npy: 4 vectors of dimension 32" in err
    expected = SentenceEncoder.from_pretrained(tiny_bert).encode(TEXTS)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-5)


def test_encode_to_a_table_from_any_input(capsys, tmp_path, tiny_bert):
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as file:
        file.write(f"sentence\tkey\n{TEXTS[0]}\ta\n{TEXTS[1]}\tb\n")
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"key": k, "sentence": t}) + "\n" for k, t in enumerate(TEXTS))
    )
    columns = "--column", "sentence", "--id_column", "key"
    inputs = (tmp_path / "a.tsv.gz", tmp_path / "b.jsonl", *columns)
    target = tmp_path / "v.parquet"
    status, _, err = printed(capsys, "encode", *inputs, "--model", tiny_bert, "--output", target, "--truncate_dim", 8)
    assert status == 0, err
    assert f"v.parquet: {2 + len(TEXTS)} vectors of dimension 8" in err
    rows = pyarrow.parquet.read_table(target).to_pydict()
    assert rows["id"] == ["a", "b", *map(str, range(len(TEXTS)))]
    assert rows["text"] == TEXTS[:2] + TEXTS
    expected = SentenceEncoder.from_pretrained(tiny_bert).encode(rows["text"], normalize=False)[:, :8]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(rows["vector"]), expected, atol=1e-5)
    command = ("encode", target, "--model", tiny_bert, "--quantize", "int8", "--output", tmp_path / "v.npz")
    assert printed(capsys, *command)[0] == 0
    with np.load(tmp_path / "v.npz") as arrays:
        assert arrays["ids"].tolist() == rows["id"]
        assert arrays["vectors"].dtype == np.int8


def test_encode_in_a_pipe(tiny_bert):
    stdin = "\n".join(TEXTS).encode()
    status, out, err = simcse("encode", "--model", tiny_bert, "--dtype", "fp32", "--normalize", "false", stdin=stdin)
    assert (status, err) == (0, "")
    vectors = np.load(io.BytesIO(out))
    expected = SentenceEncoder.from_pretrained(tiny_bert, dtype="fp32").encode(TEXTS, normalize=False)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.skipif(not has_int8_products(), reason="this CPU's sums of 8-bit products overflow, so int8 is refused")
def test_encode_by_integers(capsys, tmp_path, tiny_bert):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n")
    command = ("encode", tmp_path / "a.txt", "--model", tiny_bert, "--output", tmp_path / "v.npy")
    status, *_ = printed(capsys, *command, "--device", "cpu", "--dtype", "int8")
    assert status == 0
    vectors = np.load(tmp_path / "v.npy")
    np.testing.assert_array_equal(
        vectors, SentenceEncoder.from_pretrained(tiny_bert, device="cpu", dtype="int8").encode(TEXTS)
    )
    plain = SentenceEncoder.from_pretrained(tiny_bert, device="cpu").encode(TEXTS)
    assert not np.array_equal(vectors, plain)
    assert ((vectors * plain).sum(1) > 0.98).all()


def test_similarity_of_texts_and_of_pairs(capsys, tmp_path, tiny_bert):
    table = SentenceEncoder.from_pretrained(tiny_bert).similarity(TEXTS, TEXTS)
    model = ("--model", tiny_bert, "--format", "text")
    status, out, _ = printed(capsys, "similarity", TEXTS[0], TEXTS[1], *model)
    assert status == 0
    assert float(out) == pytest.approx(table[0, 1], abs=1e-4)
    _, out, _ = printed(capsys, "similarity", *TEXTS, *model)
    assert [line.split(maxsplit=1)[1] for line in out.splitlines()] == TEXTS[1:]
    np.testing.assert_allclose([float(line.split()[0]) for line in out.splitlines()], table[0, 1:], atol=1e-4)
    (tmp_path / "p.csv").write_text(f"a,b\n{TEXTS[0]},{TEXTS[2]}\n{TEXTS[3]},{TEXTS[1]}\n")
    _, out, _ = printed(capsys, "similarity", "--pairs", tmp_path / "p.csv", *model[:2])
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["a"], row["b"]) for row in rows] == [(TEXTS[0], TEXTS[2]), (TEXTS[3], TEXTS[1])]
    np.testing.assert_allclose([row["score"] for row in rows], [table[0, 2], table[3, 1]], atol=1e-4)


def test_pairs_in_a_pipe_and_a_line_that_is_none(capsys, tiny_bert):
    command = "similarity", "--pairs", "-", "--model", tiny_bert
    status, out, _ = printed(capsys, *command, stdin=b"a man\ta man\n")
    assert (status, json.loads(out)["score"]) == (0, pytest.approx(1, abs=1e-5))
    status, out, err = printed(capsys, *command, stdin=b"a man\ta man\nb\n")
    assert status == 1
    assert err == "error: standard input:2: found ['b'], expected two texts with a tab between them\n"


def test_search_for_a_reader_and_for_a_program(capsys, built, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    status, out, _ = printed(capsys, "index", "search", built, TEXTS[2], "--top_k", "2", "--format", "text")
    assert status == 0
    first = out.splitlines()[0]
    assert first == " 1.0000  d2  rain falls on the city"
    assert max(map(len, out.splitlines())) <= 40
    _, out, _ = printed(capsys, "index", "search", built, TEXTS[2], TEXTS[3], "--top_k", "1")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["query"] for row in rows] == TEXTS[2:]
    assert [row["hits"][0]["id"] for row in rows] == ["d2", "d3"]
    assert rows[0]["hits"][0]["metadata"] == {"lang": "de", "year": 2002}


def test_search_with_filters_and_a_floor(capsys, built):
    def ids(*options):
        _, out, err = printed(capsys, "index", "search", built, "a man", "--top_k", "9", *options)
        assert not err
        return {hit["id"] for hit in json.loads(out)["hits"]}

    assert ids("--where", "lang=de") == {"d0", "d2"}
    assert ids("--where", "lang=en|de", "year>=2001", "year<2003") == {"d1", "d2"}
    assert ids("--where", "year!=2000") == {"d1", "d2", "d3"}
    assert ids("--min_score", "1.1") == set()


def test_hybrid_search_finds_words(capsys, built):
    _, out, _ = printed(capsys, "index", "search", built, "rain", "--top_k", "1", "--hybrid")
    assert json.loads(out)["hits"][0]["id"] == "d2"
    status, _, err = printed(capsys, "index", "search", built, "rain", "--hybrid", "--min_score", "0.5")
    assert status == 2
    assert "--min_score: is a cosine" in err


def test_queries_from_a_file_and_from_a_pipe(capsys, built, tmp_path):
    (tmp_path / "q.txt").write_text("\n".join(TEXTS) + "\n")
    by_file = printed(capsys, "index", "search", built, "--queries", tmp_path / "q.txt", "--top_k", 1)
    by_pipe = printed(capsys, "index", "search", built, "--top_k", 1, stdin=(tmp_path / "q.txt").read_bytes())
    assert by_file == by_pipe
    assert [json.loads(line)["hits"][0]["text"] for line in by_file[1].splitlines()] == TEXTS


def test_add_upsert_delete_compact_info(capsys, built, tmp_path, tiny_bert):
    (tmp_path / "more.txt").write_text("snow and rain\n\nthe sad cat\n")
    status, _, err = printed(capsys, "index", "add", built, "--input", tmp_path / "more.txt")
    assert (status, err.splitlines()[-1]) == (0, f"{built}: added 2, now 6 texts")
    (tmp_path / "up.jsonl").write_text('{"id": "d0", "text": "the happy dog"}\n')
    status, _, err = printed(capsys, "index", "add", built, "--input", tmp_path / "up.jsonl")
    assert status == 1
    assert "id 'd0' is in the index already" in err
    status, _, err = printed(capsys, "index", "add", built, "--input", tmp_path / "up.jsonl", "--upsert")
    assert (status, err.strip()) == (0, f"{built}: added 0, replaced 1, now 6 texts")
    assert printed(capsys, "index", "delete", built, "d3", "--ids", "d1", "1")[2].endswith(": deleted 3, now 3 texts\n")
    (tmp_path / "ids.txt").write_text("d1\n\n")
    status, _, err = printed(capsys, "index", "delete", built, "--ids_file", tmp_path / "ids.txt")
    assert (status, err.strip()) == (1, "error: id 'd1' is not in the index; nothing was deleted")
    assert printed(capsys, "index", "compact", built)[0] == 0
    status, out, _ = printed(capsys, "index", "info", built, "--verify")
    facts = json.loads(out)
    assert (status, facts["count"], facts["deleted"], facts["verified"]) == (0, 3, 0, True)
    assert facts["encoder"] == str(tiny_bert)
    assert facts["fields"] == ["lang", "year"]
    assert "fields       lang, year\n" in printed(capsys, "index", "info", built, "--format", "text")[1]
    index = SearchIndex.load(built, SentenceEncoder.from_pretrained(tiny_bert).encode)
    assert {hit.text for hit in index.search("dog", top_k=9)[0]} == {"the happy dog", TEXTS[2], "snow and rain"}


def test_options_from_a_file(capsys, tmp_path, docs, tiny_bert):
    (tmp_path / "c.yaml").write_text(f"model: {tiny_bert}\ninput: [{docs}]\noutput: {tmp_path / 'i'}\nkind: flat\n")
    assert printed(capsys, "index", "build", "--config", tmp_path / "c.yaml")[0] == 0
    assert len(SearchIndex.load(tmp_path / "i")) == 4


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("", 2, "no command is given; commands are train, evaluate,"),
        ("encod", 2, "unknown command 'encod', expected one of"),
        ("index biuld", 2, "did you mean 'build'?"),
        ("encode --modle x", 2, "unknown option --modle; did you mean 'model'?"),
        ("index build", 2, "required and not given: --model, --output"),
        ("index search", 2, "required and not given: INDEX"),
        ("index search IDX q --dtype float8", 2, "dtype 'float8' is not one of auto, fp32, bf16, fp16, float32,"),
        ("index search IDX q --top_k many", 2, "--top_k: found 'many', expected int"),
        ("index search IDX q --format jsn", 2, "--format: found 'jsn', expected one of auto, text, json; did you mean"),
        ("index search IDX q --where lang", 2, "--where: found 'lang', expected FIELD=VALUE"),
        ("index search IDX q --where a=1 a>2", 2, "--where: found two conditions on 'a'"),
        ("index search IDX q --where land=de", 1, "unknown field 'land'; did you mean 'lang'?"),
        ("index search IDX q --top_k 0", 1, "top_k: found 0, expected a whole number from 1 on"),
        ("index search IDX q --queries f", 2, "--queries: expected either"),
        ("index search IDX --queries nowhere.txt", 1, "nowhere.txt: no such file"),
        ("index search nowhere q", 1, "nowhere: no such folder; expected the folder of an index"),
        ("index search IDX q --model OTHER", 1, "gives other vectors"),
        ("index delete IDX", 2, "ID: expected ids to delete, or --ids_file FILE"),
        ("index delete IDX d9", 1, "id 'd9' is not in the index; nothing was deleted"),
        ("index build --model MODEL --input DOCS --output IDX", 2, "exists; give another folder, or replace it with"),
        ("index build --model MODEL --input DOCS --output new --kind flatt", 2, "did you mean 'flat'"),
        ("index build --model MODEL --input gone.txt --output new", 1, "gone.txt: no such file"),
        ("index build --model MODEL --input DOCS --output new --id_column ID", 1, "no column 'ID'"),
        ("index build --model nowhere/at/all --input DOCS --output new", 1, "nowhere/at/all"),
        ("encode gone.txt --model MODEL --output v.npy", 1, "gone.txt: no such file"),
        ("encode DOCS --model MODEL --output v.txt", 2, "found v.txt, expected a name that ends in .npy, .npz"),
        ("similarity a --model MODEL", 2, "similarity: found 1 text, expected two or more"),
        ("similarity --model MODEL", 2, "similarity: expected either two or more texts, or --pairs FILE"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_on_stderr(
    command, status, message, capsys, built, docs, tiny_bert, tiny_roberta, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    places = {"IDX": built, "DOCS": docs, "MODEL": tiny_bert, "OTHER": tiny_roberta}
    before = sorted(tmp_path.rglob("*"))
    found, out, err = printed(capsys, *(places.get(word, word) for word in command.split()))
    assert message in err
    assert (found, out) == (status, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_a_reader_that_goes_away_is_no_error(built, tmp_path):
    (tmp_path / "q.txt").write_text("a man\n" * 3000)
    command = [sys.executable, "-m", "simcse", "index", "search", str(built), "--queries", str(tmp_path / "q.txt")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_mined_triplets_are_what_training_takes(capsys, tmp_path, tiny_bert):
    from simcse.data.readers import read_training

    (tmp_path / "pairs.csv").write_text("a,b\n" + "".join(f"{t},{t} now\n" for t in TEXTS))
    output = tmp_path / "triplets.csv"
    command = "mine", tmp_path / "pairs.csv", "--model", tiny_bert, "--output", output, "--duplicate", "0.999999"
    status, out, err = printed(capsys, *command, "--margin", "0.0")
    assert (status, out) == (0, "")
    rows = read_training(output)
    assert rows.column_names == ["anchor", "positive", "hard_negative"]
    assert f"{len(rows)} triplets from 4 pairs" in err
    assert all(row["hard_negative"] != row["positive"] for row in rows)
    status, _, err = printed(capsys, *command, "--margin", "0.99")
    assert (status, err.count("\n")) == (1, 1)
    assert "no pair has a negative" in err
    assert len(read_training(output)) == len(rows), "the old file is still there"
    (tmp_path / "pairs.csv").write_text("id,a,b\n" + "".join(f"{i},{t},{t} now\n" for i, t in enumerate(TEXTS)))
    status, _, err = printed(capsys, *command, "--margin", "0.0")
    assert status == 1
    assert "name the columns to use with --columns, such as --columns a,b" in err
    assert printed(capsys, *command, "--margin", "0.0", "--columns", "a,b")[0] == 0
    assert [row["anchor"] for row in read_training(output)] == [row["anchor"] for row in rows]


def test_dedup_and_cluster(capsys, built, tmp_path):
    (tmp_path / "copies.txt").write_text(f"{TEXTS[1]}\n{TEXTS[2]}\n")
    assert printed(capsys, "index", "add", built, "--input", tmp_path / "copies.txt")[0] == 0
    command = "dedup", built, "--threshold", "0.999999"
    status, out, err = printed(capsys, *command)
    groups = [json.loads(line) for line in out.splitlines()]
    assert [(g["keep"], [d["id"] for d in g["duplicates"]]) for g in groups] == [("d1", [0]), ("d2", [1])]
    assert (status, err.strip()) == (0, f"{built}: found 2 near-duplicates among 6 texts")
    assert printed(capsys, *command, "--delete")[0] == 0
    assert printed(capsys, *command)[1] == ""
    status, out, _ = printed(capsys, "cluster", built, "--clusters", "2")
    groups = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert sum(group["size"] for group in groups) == 4
    assert {m["id"] for group in groups for m in group["members"]} == {"d0", "d1", "d2", "d3"}


def test_inspect_data_names_what_may_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("anchor,positive\na dog,a dog\na cat,a tiger\na cat,a lion\n")
    assert main(["inspect-data", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "3 rows" in printed
    assert "1 row" in printed
    assert "line 2" in printed
    assert "with --model NAME" in printed  # how to have tokens counted
    assert main(["inspect-data", str(tmp_path / "nowhere.csv")]) == 1
    assert "nowhere.csv" in capsys.readouterr().err


def test_inspect_data_counts_tokens_by_a_models_tokenizer(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("anchor,positive\n" + "a dog,the man sings and plays the piano in the park at night\n" * 4)
    assert main(["inspect-data", str(file), "--model", str(tiny_bert), "--max_length", "8"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    said = " ".join(printed.split())
    assert "max_length 8 cuts none of anchor (tokens: median 4, 95 % 4, longest 4), 100 % of positive" in said
    assert "in 4 rows; max_length 16 cuts none of anchor, none of positive" in said


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_export_loads_everywhere(tiny_bert: Path, tmp_path: Path, sentences: list[str], dtype: str) -> None:
    from sentence_transformers import SentenceTransformer

    output = tmp_path / "out"
    command = ["export", str(tiny_bert), "--output", str(output), "--pooling", "mean", "--dtype", dtype]
    assert main(command) == 0
    assert main(command) == 0  # an older export is replaced
    ours = SentenceEncoder.from_pretrained(output, device="cpu", dtype="fp32").encode(sentences)
    peer = SentenceTransformer(str(output), device="cpu", model_kwargs={"dtype": "float32"}).encode(sentences)
    np.testing.assert_allclose(ours, peer, atol=1e-5)
    plain = SentenceEncoder.from_pretrained(tiny_bert, pooling="mean", device="cpu", dtype="fp32").encode(sentences)
    np.testing.assert_allclose(ours, plain, atol=1e-6 if dtype == "fp32" else 2e-2)


def test_export_overwrites_nothing_else(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    assert main(["export", str(tiny_bert), "--output", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "diary.txt").read_text() == "dear diary"


def test_the_original_package_beside_ours_is_told(tmp_path: Path) -> None:
    """Both install into simcse/: whichever comes last overwrites the other's files."""
    (tmp_path / "simcse").symlink_to(ROOT / "simcse")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    said = []
    for folder in ("simcse_kit-0.1.0.dist-info", "simcse-0.4.dist-info"):
        (tmp_path / folder).mkdir()
        command = [sys.executable, "-P", "-m", "simcse", "--help"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        said.append(done.stderr)
    assert said[0] == ""
    [line] = said[1].splitlines()
    assert line.startswith(f"warning: {tmp_path} holds two packages")
    assert "then pip install simcse-kit" in line
