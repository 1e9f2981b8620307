"""Building from files: streams, goes on after a kill, leaves nothing half-done under the final name."""

from __future__ import annotations

import gzip

import pytest

from simcse import ConfigError, DataError, SearchError, SearchIndex
from simcse.search.tools import build as jobs
from simcse.search.tools.build import build_from_files, check_files, count_rows

TEXTS = [f"text number {i} about {i * 7 % 13}" for i in range(50)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "CHUNK", 10)
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[:25]) + "\n\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as stream:
        stream.write("\n".join(TEXTS[25:]) + "\n")
    return [tmp_path / "a.txt", tmp_path / "b.txt.gz"]


def test_equals_an_index_built_in_memory(files, encoder, tmp_path):
    done = []
    index = build_from_files(files, tmp_path / "idx", encoder.encode, advance=done.append)
    assert sum(done) == 50
    assert index.search(TEXTS, top_k=3) == SearchIndex.build(TEXTS, encoder.encode).search(TEXTS, top_k=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt.gz", "idx"]


@pytest.mark.parametrize("same", [True, False])
def test_goes_on_after_a_kill_unless_something_changed(files, encoder, tmp_path, same):
    """The encoder dies in the third chunk of 10; the second call encodes the 30 texts that were left, or all 50."""
    encoded: list[str] = []

    def dies(texts):
        encoded.extend(texts)
        if TEXTS[21] in texts:
            raise KeyboardInterrupt
        return encoder.encode(texts)

    with pytest.raises(KeyboardInterrupt):
        build_from_files(files, tmp_path / "idx", dies)
    assert not (tmp_path / "idx").exists()
    if not same:
        files[0].write_text("\n".join(["changed", *TEXTS[1:25]]))
    seen: list[str] = []

    def counting(texts):
        seen.extend(texts)
        return encoder.encode(texts)

    index = build_from_files(files, tmp_path / "idx", counting)
    assert len([text for text in seen if text in TEXTS or text == "changed"]) == (30 if same else 50)
    assert len(index) == 50
    assert [index.search(text, top_k=1)[0][0].text for text in TEXTS[1:]] == TEXTS[1:]
    assert not list(tmp_path.glob(".*"))


def test_overwrite_replaces_an_index_and_nothing_else(files, encoder, tmp_path):
    build_from_files(files[:1], tmp_path / "idx", encoder.encode)
    with pytest.raises(ConfigError, match="exists; give another folder, or replace it with the option overwrite"):
        build_from_files(files, tmp_path / "idx", encoder.encode)
    assert len(build_from_files(files, tmp_path / "idx", encoder.encode, overwrite=True)) == 50
    (tmp_path / "other").mkdir()
    with pytest.raises(SearchError, match="exists and is no index"):
        build_from_files(files, tmp_path / "other", encoder.encode, overwrite=True)


def test_wrong_input_leaves_nothing(files, encoder, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        build_from_files([*files, tmp_path / "none.txt"], tmp_path / "idx", encoder.encode)
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(SearchError, match=r"blank\.txt: found no text to index"):
        build_from_files([tmp_path / "blank.txt"], tmp_path / "idx", encoder.encode)
    assert set(tmp_path.iterdir()) == before | {tmp_path / "blank.txt"}


def test_rows_are_counted_for_the_progress_bar(files, tmp_path):
    assert count_rows(files) == 51
    assert count_rows(["-"]) is None


@pytest.mark.parametrize("rest", ["another encoder", "no index", "no note"])
def test_what_a_kill_left_of_something_else_is_begun_anew(files, encoder, other_encoder, tmp_path, rest):
    """All texts are encoded, by the encoder that is asked for."""
    partial = tmp_path / ".idx.partial"
    if rest == "no index":
        partial.mkdir()
        (partial / "store-000001.sqlite").write_bytes(b"begun")
    else:
        SearchIndex.build(TEXTS[:30], (other_encoder if rest == "another encoder" else encoder).encode).save(partial)
    index = build_from_files(files, tmp_path / "idx", encoder.encode)
    assert [text for _, text, _ in index.rows()] == TEXTS
    assert not partial.exists()


def test_columns_are_checked_before_any_work_but_those_of_a_stream(files, tmp_path):
    check_files([*files, "-"])
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        check_files(["-", tmp_path / "none.txt"])
