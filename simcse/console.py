"""What the three entry points share: parsing with helpful errors, and one line instead of a traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings

from simcse.errors import ConfigError, DataError, SimCSEError, did_you_mean

__all__ = ["Parser", "run"]


class Parser(ArgumentParser):
    """jsonargparse's parser (YAML, dotted names, `--print_config`) whose errors are one-line `ConfigError`s."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # the help of an option is its field's docstring
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        super().__init__(*args, exit_on_error=True, allow_abbrev=False, **kwargs)

    def known_options(self) -> list[str]:
        """Dotted names of all options of this parser, without the leading dashes."""
        return [flag[2:] for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing usage: the reader gets the option, what was found and the nearest match.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(self._explain(" ".join(str(message).split())))

    def _explain(self, message: str) -> str:
        known = self.known_options()
        if found := re.search(r"[Uu]nrecognized arguments: (?:--)?([\w.\-]+)", message):
            name = found[1]
            hint = did_you_mean(name, known)
            return (
                f"unknown option --{name}{hint} (--help lists all)"
                if "--" in message
                else (f"unexpected argument {name!r}{hint} (--help lists all options)")
            )
        if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
            name = f"{found[1]}.{found[2]}"
            return f"unknown config key {name!r}{did_you_mean(name, known)} (--print_config lists all)"
        if found := re.search(r"(?:Key|[Oo]ption) '([\w.]+)' is not (?:expected|accepted|valid)", message):
            return f"unknown config key {found[1]!r}{did_you_mean(found[1], known)} (--print_config lists all)"
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            choices = re.findall(r"'([^']+)'", found[2])
            return (
                f"unknown command {found[1]!r}, expected one of {', '.join(choices)}{did_you_mean(found[1], choices)}"
            )
        if found := re.search(r'expected "[\w.]+" to be one of \{(.*)\}, but it was not provided', message):
            return f"no command is given; commands are {', '.join(found[1].split(','))} (--help explains them)"
        if found := re.search(r"the following arguments are required: ([\w., ]+)", message):
            missing = [self._as_typed(name) for name in found[1].rstrip(".").split(", ")]
            return f"required and not given: {', '.join(missing)} (--help explains them)"
        if found := re.search(r'Parser key "([\w.]+)": (.*)', message):
            return f"--{found[1]}: {_short_type_error(found[2])}"
        return message

    def _as_typed(self, name: str) -> str:
        """`--model` for the required `index.build.model`; a positional argument without dashes."""
        parser, parts = self, name.split(".")
        while below := next(
            (a.choices for a in parser._actions if isinstance(a.choices, dict) and parts[0] in a.choices), None
        ):
            parser = below[parts.pop(0)]
        rest = ".".join(parts)
        positional = any(a.dest == rest and not a.option_strings for a in parser._actions)
        return rest.upper() if positional else f"--{rest}"


def _short_type_error(message: str) -> str:
    """What a value is and should be, from the list of everything that was tried."""
    if found := re.search(r"Subtypes: \[(.*?)\] Errors: .* Given value: (.*)", message):
        types = [re.sub(r"<class '(\w+)'>", r"\1", kind) for kind in found[1].split(", ")]
        return f"found {found[2]!r}, expected {' or '.join('null' if kind == 'NoneType' else kind for kind in types)}"
    if found := re.search(r"Expected a typing.Literal\[(.*)\]. Got value: (.*)", message):
        choices = [choice.strip("'\"") for choice in found[1].split(", ")]
        return f"found {found[2]!r}, expected one of {', '.join(choices)}{did_you_mean(found[2], choices)}"
    if found := re.search(r"Expected a <class '(\w+)'>. Got value: (.*)", message):
        return f"found {found[2]!r}, expected {found[1]}"
    return message


REMEDIES = {
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some space, or name another place",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a part of the path is no folder; name another",
    errno.EISDIR: "a file is expected",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def _in_words(error: OSError, lost: bool) -> str:
    """An error of the system: which file (standard output, if that is lost), what, and a remedy where one is known."""
    if error.errno is None:
        return str(error)
    name = error.filename or ("standard output" if lost else None)
    remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
    return f"{os.fsdecode(name)}: {error.strerror}{remedy}" if name else f"{error.strerror}{remedy}"


def _output_lost() -> bool:
    """Whether standard output accepts no more; then the interpreter does not try, and complain, at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run `command(argv)` and turn the outcome into an exit status.

    Args:
        command: called with the arguments after the program's name.
        argv: the arguments; default `sys.argv[1:]`. `--debug`, anywhere among them, keeps tracebacks.

    Returns:
        0 done, 1 failed, 2 wrong use, 130 interrupted, 143 terminated, 141 the reader of our output went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    for name in ("stdin", "stdout", "stderr"):  # closed ones (`>&-`) are None
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115 -- to the end
    try:
        command(arguments)
        sys.stdout.flush()
    except SimCSEError as error:
        if debug:
            raise
        if os.environ.get("RANK", "0") == "0" or not isinstance(error, ConfigError | DataError):
            # options and files are the same for all processes of a group: the first one speaks for them
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        status: int = getattr(stop, "exit_code", 130)  # of a run that was told to stop, and tells how to go on
        if debug and status == 130:
            raise
        if os.environ.get("RANK", "0") == "0":
            print(f"interrupted: {stop}" if str(stop) else "interrupted", file=sys.stderr)
        return status
    except BrokenPipeError:
        _output_lost()  # `simcse ... | head`: the reader has what it wanted
        return 141
    except OSError as error:  # a full disk, a folder that cannot be written to
        if debug:
            raise
        print(f"error: {' '.join(_in_words(error, _output_lost()).split())}", file=sys.stderr)
        return 1
    except SystemExit as stop:  # --help, --print_config
        return stop.code if isinstance(stop.code, int) else 0
    return 0
