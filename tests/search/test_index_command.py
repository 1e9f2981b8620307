"""`simcse index build` with sample queries, as it is typed."""

from __future__ import annotations

import json

import pytest

from simcse import SearchError, SearchIndex, SentenceEncoder
from simcse.cli import main
from simcse.search.nearest import plan


@pytest.fixture
def corpus(tmp_path):
    words = ["river", "stone", "music", "winter", "garden", "market", "engine", "letter", "doctor", "island"]
    lines = [f"the {a} and the {b} of {c}" for a in words for b in words for c in words]
    (tmp_path / "corpus.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "asked.txt").write_text("where is the island?\n\nwho is the doctor?\nwhat does the engine do?\n")
    return tmp_path


def test_recall_is_tuned_on_given_queries_and_says_so(corpus, tiny_bert, capsys, monkeypatch):
    monkeypatch.setattr(plan, "FLAT_BELOW", 500)
    command = ["index", "build", "--model", str(tiny_bert), "--input", str(corpus / "corpus.txt"), "--output"]
    assert main([*command, str(corpus / "idx"), "--sample_queries", str(corpus / "asked.txt")]) == 0
    assert "on 3 sample queries" in capsys.readouterr().err
    assert main(["index", "info", str(corpus / "idx"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["measured_on"] == "3 sample queries"
    assert main([*command, str(corpus / "plain")]) == 0
    assert "on 100 held-out rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (None, 1, "asked.txt: no such file"),
        ("\n \n", 2, "--sample_queries: found no query in"),
    ],
)
def test_a_file_without_queries_is_told_before_any_work(corpus, tiny_bert, capsys, content, status, message):
    (corpus / "asked.txt").unlink()
    if content is not None:
        (corpus / "asked.txt").write_text(content)
    command = ["index", "build", "--model", str(tiny_bert), "--input", str(corpus / "corpus.txt"), "--output"]
    assert main([*command, str(corpus / "idx"), "--sample_queries", str(corpus / "asked.txt")]) == status
    assert message in capsys.readouterr().err
    assert not (corpus / "idx").exists()
    assert not list(corpus.glob(".*"))


def test_where_takes_numbers_and_texts_of_a_csv(tmp_path, tiny_bert, capsys):
    rows = ["a,rain,1995,10115,NaN", "b,snow,2005,01067,en", "c,wind,2010,10115,Infinity"]
    (tmp_path / "docs.csv").write_text("\n".join(["id,text,year,zip,lang", *rows]) + "\n")
    index = str(tmp_path / "idx")
    assert (
        main(["index", "build", "--input", str(tmp_path / "docs.csv"), "--model", str(tiny_bert), "--output", index])
        == 0
    )
    expected = {
        "year=2005": {"b"}, "year>=2000": {"b", "c"}, "year!=2005": {"a", "c"}, "year=1995|2010": {"a", "c"},
        "year=2005.0": {"b"}, 'year="2005"': set(), "year=true": set(), "zip=10115": set(), 'zip="10115"': {"a", "c"},
        "zip=01067": {"b"}, "lang=NaN": {"a"}, "lang=Infinity": {"c"}, "year<9223372036854775808": {"a", "b", "c"},
        f"lang={'[' * 100_000}": set(),
    }  # fmt: skip
    capsys.readouterr()
    for where, ids in expected.items():
        assert main(["index", "search", index, "rain", "--where", where, "--format", "json"]) == 0
        hits = json.loads(capsys.readouterr().out)["hits"]
        assert {hit["id"] for hit in hits} == ids, where
        assert all(isinstance(hit["metadata"]["year"], int) for hit in hits)
    for where in ("year=1e999", "year<[1]", "lang=\udc80"):
        assert main(["index", "search", index, "rain", "--where", where]) == 1
        assert "expected text, number, boolean" in capsys.readouterr().err


def test_each_command_works_on_each_storage(durable, tiny_bert, tmp_path, capsys):
    """index build, info, search, add, delete and compact; dedup and cluster."""
    place, source = durable.new(), tmp_path / "docs.csv"
    source.write_text("id,text,year\na,rain falls,1999\nb,snow,2005\nc,rain falls,2010\n")
    commands = [
        (
            ["index", "build", "--input", str(source), "--model", str(tiny_bert), "--output", place],
            "3 texts, dimension",
        ),
        (["index", "info", place, "--verify", "--format", "text"], "year"),
        (["index", "search", place, "rain", "--where", "year=2005", "--format", "text"], "snow"),
        (["index", "search", place, "snow", "--hybrid", "--format", "text"], "snow"),
        (["dedup", place, "--delete", "--threshold", "0.99999"], '{"keep": "a", "duplicates": [{"id": "c"'),
        (["cluster", place, "--clusters", "2"], '"size": 1, "examples": '),
        (["index", "add", place, "--input", str(source), "--upsert"], "added 1, replaced 2, now 3 texts"),
        (["index", "delete", place, "b"], "deleted 1, now 2 texts"),
        (["index", "compact", place], "2 texts"),
    ]
    for command, expected in commands:
        assert main(command) == 0, capsys.readouterr().err
        told = capsys.readouterr()
        assert expected in told.out + told.err
    assert main(["index", "build", "--input", str(source), "--model", str(tiny_bert), "--output", place]) in (1, 2)
    assert f"{place.removeprefix('milvus:').partition('#')[0]}" in (told := capsys.readouterr().err)
    assert "exists; " in told


def test_an_index_remembers_how_many_dimensions_are_kept(tmp_path, tiny_bert, capsys):
    """So that search and add, which load the encoder by its name, cut its vectors, too."""
    (tmp_path / "a.txt").write_text("rain falls\nsnow falls\n")
    (tmp_path / "b.txt").write_text("a guitar\n")
    index, command = str(tmp_path / "idx"), ["index", "build", str(tmp_path / "a.txt"), "--model", str(tiny_bert)]
    assert main([*command, "--output", index, "--truncate_dim", "40"]) == 2
    assert "error: --truncate_dim is 40, expected 1 to 32, all of" in capsys.readouterr().err
    assert main([*command, "--output", index, "--truncate_dim", "8"]) == 0
    assert "2 texts, dimension 8;" in capsys.readouterr().err
    assert main(["index", "add", index, str(tmp_path / "b.txt")]) == 0
    capsys.readouterr()
    assert main(["index", "search", index, "a guitar", "--top_k", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0] == {
        "text": "a guitar", "score": 1.0, "id": 2, "metadata": {}
    }  # fmt: skip
    cut = SentenceEncoder.from_pretrained(tiny_bert, truncate_dim=8)
    assert SearchIndex.load(index, cut).info["fingerprint"] == cut.fingerprint
    with pytest.raises(SearchError, match=r"gives dimension 32; load it with .* and truncate_dim=8"):
        SearchIndex.load(index, SentenceEncoder.from_pretrained(tiny_bert))
