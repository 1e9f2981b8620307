"""Being told to stop: the step is finished, last/ saved, and the exit status says which signal it was."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interrupted", "StopSignals", "heard_signals"]


def heard_signals() -> list[signal.Signals]:
    """SIGTERM and SIGINT, but for one that we were started to ignore, as a shell does for its background."""
    return [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]


class Interrupted(KeyboardInterrupt):
    """A run was told to stop, and can go on from its last/."""

    def __init__(self, number: int, message: str) -> None:
        """`number`: of the signal."""
        super().__init__(message)
        self.number, self.exit_code = number, 128 + number

    def followed_by(self, remedy: str) -> Interrupted:
        """The same, saying how to go on."""
        return Interrupted(self.number, f"{self}; {remedy}")


class StopSignals:
    """The first SIGTERM or SIGINT asks for a stop, the second one stops at once. A context manager.

    Outside of the main thread, where Python handles no signals, they keep their meaning.

    Attributes:
        number: of the signal that came, 0 before.
    """

    def __init__(self, *, tells: bool) -> None:
        """`tells`: say on stderr that the signal was heard."""
        self.number = 0
        self._tells = tells
        self._before: dict[int, Any] = {}
        self._parent = os.getppid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heard) for number in heard_signals()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.restore()

    def restore(self) -> None:
        """Give the signals the meaning that they had."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if os.getppid() != self._parent:  # the launcher is gone and the system tells us: no second wish of the user
            self._parent = os.getppid()
            if self.number:
                return
        if self.number:
            self.restore()
            os.kill(os.getpid(), number)
            return
        self.number = number
        if self._tells and sys.stderr is not None:
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: stopping behind this step, with last/ saved; once more stops at once\n".encode())
