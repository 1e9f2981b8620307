"""A run's folder: config.yaml, log.jsonl, report.json, best/ and last/. After a kill at any moment it can go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from simcse.errors import ConfigError, ModelError
from simcse.files import replaced_file, replaced_folder

__all__ = ["RunDir"]

STATE = "trainer.pt"
# what may change between a run and its resumption without making it another run
FREE = {"resume", "output_dir", "eval_every", "save_every", "log_every", "trackers", "seeds", "micro_batch_size"}


class RunDir:
    """Where a run writes.

    Args:
        folder: made if it is not there.
        config: nested plain values of the run.
        resume: never | auto | the path of a `last/` folder.
        writes: False for all processes but the first: they read only.

    Raises:
        ConfigError: the folder holds another run, or there is nothing to resume from.
    """

    def __init__(
        self, folder: str | Path, config: Mapping[str, Any], resume: str = "never", *, writes: bool = True
    ) -> None:
        self.folder = Path(folder)
        self.writes = writes
        self.start = self._find_start(resume)
        if self.start is not None:
            self._check_same(config)
        elif resume == "never" and any((self.folder / name).exists() for name in ("config.yaml", "log.jsonl", "best")):
            raise ConfigError(
                f"--output_dir {self.folder} holds another run; go on with it by --resume auto, or name another folder"
            )
        self._config = config

    @property
    def best(self) -> Path:
        """The encoder of the best judgement."""
        return self.folder / "best"

    @property
    def last(self) -> Path:
        """The newest state that a run can go on from."""
        return self.folder / "last"

    def open(self) -> None:
        """Write the config, and cut the log at the step that the run goes on from."""
        if not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(self.folder / "config.yaml") as new:
            new.write_text(yaml.safe_dump(dict(self._config), sort_keys=False), encoding="utf-8")
        log = self.folder / "log.jsonl"
        first = int(self.load_state()["step"]) if self.start else 0
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        kept = [line for line in lines if _step_of(line) <= first] if self.start else []
        with replaced_file(log) as new:
            new.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to log.jsonl."""
        if self.writes:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def first_judgement(self) -> dict[str, float]:
        """The scores before the first step, from the log; empty if there were none."""
        for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["step"] == 0 and "dev" in record:
                scores: dict[str, float] = record["dev"]
                return scores
        return {}

    def save_last(self, write_encoder: Callable[[Path], None], state: Mapping[str, Any]) -> None:
        """Replace last/ by the encoder and the trainer's state."""
        if self.writes:
            with replaced_folder(self.last) as new:
                write_encoder(new)
                torch.save(dict(state), new / STATE)

    def save_best(self, write_encoder: Callable[[Path], None]) -> None:
        """Replace best/ by the encoder."""
        if self.writes:
            with replaced_folder(self.best) as new:
                write_encoder(new)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Replace report.json."""
        if self.writes:
            with replaced_file(self.folder / "report.json") as new:
                new.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    def load_state(self) -> dict[str, Any]:
        """The trainer's state in the folder that the run goes on from.

        Raises:
            ModelError: it is damaged.
        """
        assert self.start is not None
        try:
            state: dict[str, Any] = torch.load(self.start / STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load fails in as many ways as a file can be damaged
            raise ModelError(
                f"{self.start / STATE}: cannot be read ({type(error).__name__}); start the run anew"
            ) from error
        return state

    def _find_start(self, resume: str) -> Path | None:
        if resume == "never":
            return None
        folder = self.last if resume == "auto" else Path(resume)
        if (folder / STATE).is_file():
            return folder
        if resume == "auto":
            return None
        raise ConfigError(f"--resume {resume}: no {STATE} there; name the last/ folder of a run, or say auto")

    def _check_same(self, config: Mapping[str, Any]) -> None:
        assert self.start is not None
        file = self.start.parent / "config.yaml"
        if not file.is_file():
            return
        before, now = _flat(yaml.safe_load(file.read_text(encoding="utf-8"))), _flat(config)
        for key in sorted(set(before) | set(now)):
            if key.split(".")[0] not in FREE and before.get(key) != now.get(key):
                raise ConfigError(
                    f"--{key} is {now.get(key)!r}, but the run in {self.start.parent} was started with "
                    f"{before.get(key)!r}; resume it with the same value, or name another --output_dir"
                )


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):  # a line that a kill cut short
        return 1 << 62


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key != "objective_args":
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
