"""A run's folder: config.yaml, log.jsonl, report.json, best/ and last/. After a kill at any moment it can go on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from simcse.errors import ConfigError, DataError, ModelError
from simcse.files import check_version, check_writable, naming_target, replaced_file, replaced_folder, sync
from simcse.training.resume import FORMAT, Facts, check_data, check_options, check_whole, read_config, seal
from simcse.training.run_lock import RunLock

__all__ = ["RunDir"]

STATE = "trainer.pt"


class RunDir:
    """Where a run writes; no other run does while this one is there. `close` it.

    Args:
        folder: made if it is not there.
        config: nested plain values of the run.
        resume: never | auto | the path of a `last/` folder | finished: only to look at a run that has its report.
        writes: False for all processes but the first: they read only.

    Raises:
        ConfigError: another run writes or lies there, or there is nothing to resume from.
        ModelError: the state to go on from is damaged.
        OSError: the folder cannot be written.
    """

    def __init__(
        self, folder: str | Path, config: Mapping[str, Any], resume: str = "never", *, writes: bool = True
    ) -> None:
        self.folder = Path(folder)
        self.writes = writes
        self._config = config
        self._lock = RunLock(self.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"output_dir={self.folder}: is a file, expected a folder or a name that is free")
        if writes:
            check_writable(self.folder / "config.yaml")
            if self.folder.exists():  # a new one is made, and locked, when all options are known to be good
                self._lock.acquire()
        try:
            self.start = self._find_start(resume)
            self._before = self._checked(resume) if self.start is not None or resume == "finished" else None
        except BaseException:
            self.close()
            raise

    @property
    def best(self) -> Path:
        """The encoder of the best evaluation."""
        return self.folder / "best"

    @property
    def last(self) -> Path:
        """The newest state that a run can go on from."""
        return self.folder / "last"

    def open(self, data: Facts) -> None:
        """Write the config, and cut the log at the step that the run goes on from.

        Args:
            data: what is in the files of this run.

        Raises:
            ConfigError: another run has begun there in the meantime.
            DataError: a line of the log is damaged.
        """
        self.data: Facts = data
        if not self.writes:
            return
        if not self._lock.locked:  # the folder is new
            self._lock.acquire()
            self._find_start("never")  # nobody was faster
        state = self.load_state() if self.start else {}
        kept = self._logged(state["step"]) if state else []
        if state.get("due"):  # its evaluation is done anew, wherever the last try of that was killed
            kept = [record for record in kept if record["step"] < state["step"] or "dev" not in record]
        with replaced_file(self.folder / "config.yaml") as new:
            new.write_text(yaml.safe_dump(dict(self._config), sort_keys=False), encoding="utf-8")
        with replaced_file(self.folder / "log.jsonl") as new:
            new.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def close(self) -> None:
        """Let other runs in."""
        self._lock.release()

    def check_data(self, data: Facts, names: Mapping[str, Any]) -> None:
        """Make sure that the data are the same as when the run that this one goes on from was started.

        Args:
            data: what they are now.
            names: of the files.

        Raises:
            DataError: one holds something else.
        """
        if self._before is not None:
            check_data(self._before.get("data", {}), data, names, self.start.parent if self.start else self.folder)

    def finished(self) -> dict[str, Any] | None:
        """What report.json says, if the run has come to its end.

        Raises:
            ModelError: the report is damaged, or a newer simcse has written it.
        """
        file = self.folder / "report.json"
        if not file.is_file():
            return None
        try:
            report: dict[str, Any] = dict(json.loads(file.read_bytes()))
            check_version(file, report.get("format", 1), FORMAT, ModelError)
            report["tasks"], report["versions"], report["protocol"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(
                f"{file}: damaged ({type(error).__name__}); remove it, and resume=auto makes it anew"
            ) from error
        return report

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to log.jsonl."""
        if self.writes:
            file = self.folder / "log.jsonl"
            with naming_target(file), file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")

    def first_evaluation(self) -> dict[str, float]:
        """The scores before the first step, from the log; empty if there were none."""
        for record in self._logged(0):
            if "dev" in record:
                scores: dict[str, float] = record["dev"]
                return scores
        return {}

    def losses(self) -> dict[str, float | None]:
        """The first and the last loss of the log, no first one where it is the last; empty where none was written."""
        found = [float(record["loss"]) for record in self._logged(sys.maxsize) if "loss" in record]
        return {"first": found[0] if len(found) > 1 else None, "last": found[-1]} if found else {}

    def save_last(self, write_encoder: Callable[[Path], None], state: Mapping[str, Any]) -> None:
        """Replace last/ by the encoder, the trainer's state, and what must be the same to go on from there."""
        if self.writes:
            sync(self.folder / "log.jsonl")  # the log up to here is part of the state
            with replaced_folder(self.last) as new:
                write_encoder(new)
                with (new / STATE).open("wb") as file:  # opened here, a failed write keeps its cause
                    torch.save(dict(state), file)
                seal(new, self._config, self.data)

    def save_best(self, write_encoder: Callable[[Path], None]) -> None:
        """Replace best/ by the encoder."""
        if self.writes:
            with replaced_folder(self.best) as new:
                write_encoder(new)

    def write_card(self, text: str) -> None:
        """Put a model card beside the encoder in best/."""
        if self.writes:
            with replaced_file(self.best / "README.md") as new:
                new.write_text(text, encoding="utf-8")

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
        """The folder of the state to go on from, if there is one."""
        there = [name for name in ("config.yaml", "log.jsonl", "best", "last") if (self.folder / name).exists()]
        if resume == "never":
            if there:
                raise ConfigError(
                    f"output_dir={self.folder} holds another run; go on with it by resume=auto, or name another folder"
                )
            return None
        if resume not in ("auto", "finished"):
            if not (Path(resume) / STATE).is_file():
                raise ConfigError(f"resume={resume}: no {STATE} there; name the last/ folder of a run, or say auto")
            if there and Path(resume).resolve().parent != self.folder.resolve():
                raise ConfigError(f"output_dir={self.folder} holds another run than resume={resume}; name a new folder")
            return Path(resume)
        if "last" in there:
            return self.last
        if resume == "finished":
            return None
        if self.finished() is not None:
            raise ConfigError(
                f"output_dir={self.folder} holds a finished run whose last/ is gone, so nothing can go on from it; "
                "name another folder"
            )
        return None

    def _checked(self, resume: str) -> dict[str, Any]:
        """What last/run.json says, after comparing options and files with it."""
        if resume in ("auto", "finished"):
            check_options(read_config(self.folder), self._config, self.folder)
        if self.start is None:  # a user may remove last/ once a run has its report
            return self.finished() or {}
        facts = check_whole(self.start)
        check_options(facts["options"], self._config, self.start.parent)
        return facts

    def _logged(self, last: int) -> list[dict[str, Any]]:
        """The log's records up to a step. What a kill or a power cut tore behind them is left out.

        Raises:
            DataError: a line before one of them is damaged.
        """
        file, records, bad = self.folder / "log.jsonl", [], 0
        for number, line in enumerate(file.read_bytes().splitlines() if file.is_file() else [], 1):
            try:
                record = json.loads(line)
                step = int(record["step"])
                float(record.get("loss", 0)), dict(record.get("dev", {}))  # where a record says so
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                bad = bad or number
                continue
            if step > last:  # not synced before the state was saved: any of it may be there
                continue
            if bad:
                raise DataError(f"{file}:{bad}: no JSON object with a step; delete the line")
            records.append(record)
        return records
