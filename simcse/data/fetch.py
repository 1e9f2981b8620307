"""Evaluation sets and training files of the SimCSE paper, from its authors' data set on the hub."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from simcse.data.tabular import lines, named_rows
from simcse.errors import DataError
from simcse.files import replaced_file, replaced_folder

__all__ = ["ARCHIVE", "BY_HAND", "FILES", "check_fetched", "fetch_file", "fetch_senteval"]

REPO = "princeton-nlp/datasets-for-simcse"
ARCHIVE = "senteval.tar"
FILES = {"wiki1m_for_simcse.txt": 1_000_000, "nli_for_simcse.csv": 275_601}  # rows; paper, appendix A
FIRST = "STS/STS12-en-test/"  # what tells where in the archive SentEval's folder begins
BY_HAND = (
    "by hand: wiki1m_for_simcse.txt and nli_for_simcse.csv go into {0}, SentEval's folders STS and SICK (with "
    "STS12-en-test and so on below STS) into {0}/senteval"
)


def check_fetched(options: Mapping[str, str | None]) -> None:
    """Raise a DataError that says what to type where a file is missing that `simcse data sts` fetches.

    Args:
        options: `data.dev` and its kin -> what the user, or a recipe, named.
    """
    for option, name in options.items():
        path = Path(name or ".")
        folders = [part.parent for part in (path, *path.parents) if part.name == "senteval" or part.name in FILES]
        if folders and not path.exists():
            others = " ".join(f"{other}=null" for other in options if other != "data.train")
            without = "" if option == "data.train" else f"; or leave evaluation out: {others}"
            raise DataError(
                f"{option}={name}: no such file or folder; fetch it by simcse data sts --output {folders[0]}, or name "
                f"one of your own{without}"
            )


def fetch_file(name: str, output: Path) -> bool:
    """Put one of `FILES` into a folder; returns whether it had to be fetched.

    Raises:
        DataError: it cannot be fetched, or has another number of rows than it should.
    """
    target = output / name
    if target.is_file():
        check_rows(target, FILES[name])
        return False
    source = download(name, output)
    with replaced_file(target) as new:
        shutil.copyfile(source, new)
        check_rows(new, FILES[name], target)
    return True


def check_rows(file: Path, expected: int, named: Path | None = None) -> None:
    """Raise a DataError unless a file has so many lines, or rows below a header."""
    rows = named_rows(file)[1] if file.suffix == ".csv" else lines(file)
    if (found := sum(1 for _ in rows)) != expected:
        raise DataError(f"{named or file}: holds {found:,} rows, expected {expected:,}; remove it and fetch it anew")


def fetch_senteval(output: Path, check: Callable[[Path], None]) -> bool:
    """Put SentEval's data into the folder `senteval`; returns whether it had to be fetched.

    Args:
        output: where the folder is made.
        check: called with it; raises an error unless all is there.

    Raises:
        DataError: it cannot be fetched, is damaged, or not what `check` expects.
    """
    folder = output / "senteval"
    if folder.exists():
        check(folder)
        return False
    source = download(ARCHIVE, output)
    with replaced_folder(folder) as new:
        try:
            with tarfile.open(source) as archive:
                unpack(archive, new)
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{REPO}: {ARCHIVE} cannot be unpacked ({error}); fetch it again") from error
        check(new)
    return True


def unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Write what lies beside the archive's STS folder; files alone, and none outside of `folder`."""
    members = [member for member in archive if member.isfile()]
    root = next((m.name[: m.name.index(FIRST)] for m in members if FIRST in m.name), None)
    if root is None:
        raise DataError(f"{REPO}: {ARCHIVE} has no {FIRST}, so it is another file than it was")
    for member in members:
        name = PurePosixPath(member.name)
        if not member.name.startswith(root) or name.name.startswith("._"):
            continue
        member.name = member.name[len(root) :]
        archive.extract(member, folder, filter="data")


def download(name: str, output: Path) -> Path:
    """A file of the data set, in the hub client's cache.

    Raises:
        DataError: it cannot be fetched; says where to put files by hand.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(REPO, name, repo_type="dataset"))
    except Exception as error:  # the hub client raises a dozen unrelated types: offline, not found, timeouts
        reason = str(error).strip().split("\n")[0][:200]
        raise DataError(
            f"{REPO}: {name} cannot be fetched from the hub ({type(error).__name__}: {reason}); "
            + BY_HAND.format(output)
        ) from error
