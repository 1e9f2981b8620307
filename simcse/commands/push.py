"""`simcse push`: a trained encoder to the hub, with its model card."""

from __future__ import annotations

import sys
from pathlib import Path

from simcse.commands.models import encoder_of
from simcse.errors import ConfigError, ModelError

__all__ = ["push"]

OF_A_RUN = ("trainer.pt", "run.json")  # in last/: what a run goes on from


def push(path: str, repo: str, *, private: bool = False) -> None:
    """Upload an encoder to the Hugging Face hub.

    Makes the repository if it is not there, and uploads the folder's files in one commit. In the model card, README.md,
    the lines that load the encoder get the repository's name. The token is that of the environment's HF_TOKEN, or of hf
    auth login.

    Args:
        path: folder of a checkpoint, or of a run, of which best/ is uploaded
        repo: owner/name at the hub
        private: make a repository that others do not see
    """
    folder = Path(encoder_of(path))
    if not (folder / "simcse.json").is_file():
        raise ModelError(f"{path}: no simcse.json there; name a run, its best/, or what simcse export wrote")
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if get_token() is None:
        raise ConfigError(f"{repo}: pushing needs a token; set HF_TOKEN, or log in by hf auth login")
    from simcse.encoder.formats import read_layout
    from simcse.encoder.saving import verified
    from simcse.training.card import with_name

    with verified(folder, read_layout(folder).digests):  # nobody else should find out that it is damaged
        pass
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name not in OF_A_RUN]
    content: dict[Path, Path | bytes] = {file: file for file in files}
    if (card := folder / "README.md") in content:
        content[card] = with_name(card.read_text(encoding="utf-8"), repo).encode()
    else:
        print(f"{folder}: has no model card (README.md); pushing without one", file=sys.stderr)
    changes = [CommitOperationAdd(file.relative_to(folder).as_posix(), what) for file, what in content.items()]
    try:
        api = HfApi()
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        done = api.create_commit(name, changes, commit_message="Upload by simcse push")
    except OfflineModeIsEnabled as error:
        raise ConfigError(f"{repo}: HF_HUB_OFFLINE is set, so nothing can be pushed; unset it") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "the token must be allowed to write there" if status in (401, 403) else "check the name, and try again"
        raise ModelError(f"{repo}: the hub answered {status} ({error.server_message or error}); {remedy}") from error
    except Exception as error:  # the hub client raises a dozen unrelated types: no network, no name, timeouts
        raise ModelError(f"{repo}: not pushed ({error})") from error
    print(done.commit_url)
