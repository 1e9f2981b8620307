"""The paper's files come from a hub on loopback, are counted, and lie where the recipes look; or nothing is left."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fake_hub import Hub, serving_hub

from simcse.cli import main
from simcse.data.fetch import FILES, REPO
from simcse.evaluation.sts import SEVEN, TASKS, load_task

ROOT = Path(__file__).parents[2]


def senteval(top: str, missing: int = 0) -> bytes:
    """An archive as large in pairs as the real one, with made-up ones; `missing` pairs short in STS-B's test set."""
    files = {"MR/rt-polarity.pos": b"fine\n"}
    for name in (*SEVEN, "STS-B-dev"):
        task = TASKS[name]
        for subset, n in task.subsets.items():
            if task.is_semeval:
                files[f"{task.folder}/STS.input.{subset}.txt"] = b"a man\tthe dog\n" * (n + 1)
                files[f"{task.folder}/STS.gs.{subset}.txt"] = b"2.5\n" * n + b"\n"  # the last one has no score
            elif name == "SICK-R":
                header = b"pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
                files[f"{task.folder}/{subset}"] = header + b"1\ta man\tthe dog\t2.5\tNEUTRAL\n" * n
            else:
                n -= missing if name == "STS-B" else 0
                files[f"{task.folder}/{subset}"] = b"main\tfile\t2012\t1\t2.5\ta man\tthe dog\n" * n
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{top}{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(f"{top}STS/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving_hub() as hub:
        hub.lead(monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.files = {
            f"datasets/{REPO}/senteval.tar": senteval("downstream/"),
            f"datasets/{REPO}/wiki1m_for_simcse.txt": b"a sentence\n" * FILES["wiki1m_for_simcse.txt"],
            f"datasets/{REPO}/nli_for_simcse.csv": b"sent0,sent1,hard_neg\n" + b"a,b,c\n" * FILES["nli_for_simcse.csv"],
        }
        yield hub


def test_all_lies_where_the_recipes_look(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "sts", "--output", "data"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    assert said.count("fetched;") == 3
    for recipe in ("unsup-bert-base", "sup-bert-base"):
        data = yaml.safe_load((ROOT / "configs" / f"{recipe}.yaml").read_text())["data"]
        assert Path(data["train"]).is_file()
        assert Path(data["dev"]).is_file()
        assert sum(map(len, load_task("STS12", data["test"]))) == 3108
    assert Path("data/senteval/MR/rt-polarity.pos").is_file()
    assert not Path("data/senteval/STS/link").is_symlink()
    assert {path.name for path in Path("data").iterdir()} == {"senteval", *FILES}
    hub.files.clear()  # nothing is fetched twice
    assert main(["data", "sts", "--output", "data"]) == 0
    assert capsys.readouterr().err.count("already there;") == 3


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("senteval.tar", senteval("", missing=3), "STS-B has 1,376 scored pairs, expected 1,379"),
        ("senteval.tar", b"no archive", "senteval.tar cannot be unpacked"),
        (
            "wiki1m_for_simcse.txt",
            b"a sentence\n" * 10,
            "data/wiki1m_for_simcse.txt: holds 10 rows, expected 1,000,000",
        ),
        ("nli_for_simcse.csv", None, "nli_for_simcse.csv cannot be fetched from the hub"),
    ],
)
def test_what_is_wrong_leaves_nothing(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: bytes | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.files.pop(f"datasets/{REPO}/{file}")
    if content is not None:
        hub.files[f"datasets/{REPO}/{file}"] = content
    only = {"senteval.tar": "sts"}.get(file, file[:4].rstrip("_"))
    assert main(["data", "sts", "--only", only]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not list(Path("data").glob("*"))


def test_without_a_hub_it_says_where_to_put_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The suite runs with HF_HUB_OFFLINE; the same line is said where no network is."""
    assert main(["data", "sts", "--output", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {REPO}: senteval.tar cannot be fetched from the hub (")
    assert (
        f"SentEval's folders STS and SICK (with STS12-en-test and so on below STS) into {tmp_path}/data/senteval"
        in said
    )
    assert said.count("\n") == 1
    assert not (tmp_path / "data").exists()
