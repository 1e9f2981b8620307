"""What the entry points share: parsing with helpful errors, and one line instead of a traceback."""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings

from simcse.errors import ConfigError, DataError, SimCSEError, did_you_mean, shown
from simcse.option_names import NOTES, OTHER_NAMES

__all__ = ["Parser", "original_beside", "run", "separated"]


class Parser(ArgumentParser):
    """jsonargparse's parser (YAML, dotted names, `--print_config`) whose errors are one-line `ConfigError`s."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # the help of an option is its field's docstring
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        # jsonargparse makes parsers of this class for the elements of a list, and asks for its own exceptions
        super().__init__(*args, **{"exit_on_error": True, "allow_abbrev": False} | kwargs)

    def known_options(self) -> list[str]:
        """Dotted names of all options of this parser, without the leading dashes."""
        return [flag[2:] for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def add_json(self) -> None:
        """`--json` beside `--format`, for programs that read the output."""
        self.add_argument(
            "--json", dest="format", action="store_const", const="json", default=SUPPRESS, help="same as --format json"
        )

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:  # type: ignore[override]
        """As jsonargparse's, and a list is written with commas: `--data.columns question,answer`; or with spaces."""
        SPELLED.clear()
        known = sorted(self.known_options(), key=lambda option: option.count("."))  # undotted ones win
        SPELLED.update((name, option) for option in known[::-1] for name in (option.rpartition(".")[2], option))
        return super().parse_args(self._with_lists(list(sys.argv[1:] if args is None else args)), *more, **options)

    def _with_lists(self, arguments: list[str]) -> list[str]:
        """The same, where values of lists of texts and of whole numbers are JSON."""
        hints = {flag: getattr(action, "_typehint", None) for action in self._actions for flag in action.option_strings}
        lists = {flag for flag, hint in hints.items() if hint in (list[str], list[str] | None, list[int])}
        alone = all(action.option_strings for action in self._actions)  # no positional argument may follow a list
        written: list[str] = []
        while arguments:
            flag, equals, value = arguments.pop(0).partition("=")
            if flag not in lists or not (equals or arguments):
                written.append(flag + equals + value)
                continue
            values = [value if equals else arguments.pop(0)]
            while alone and arguments and not arguments[0].startswith("-"):
                values.append(arguments.pop(0))
            plain = len(values) > 1 or not (values[0][:1] in ("[", "") or values[0] == "null")
            if plain and hints[flag] == list[int]:
                written += [flag, f"[{','.join(separated(values))}]"]
            else:
                written += [flag, json.dumps(separated(values)) if plain else values[0]]
        return written

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing usage: the reader gets the option, what was found and the nearest match.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(self._explain(" ".join(str(message).split())))

    def _explain(self, message: str) -> str:
        known = self.known_options()
        if found := re.search(r"[Uu]nrecognized arguments: (.*)", message):
            names = re.findall(r"(?:^| )--([\w.\-]+)", found[1])
            if names:
                return f"{'; '.join(map(self._unknown_option, names))} (--help lists all)"
            name = found[1].split()[0]
            if re.fullmatch("-[A-Za-z]", name):
                return f"unknown option {name}{self._ours(name[1])} (--help lists all)"
            meant = next((option for option in ("data.train", "model") if option in known), None)
            hint = f"; did you mean --{meant} {name}?" if meant else ""
            return f"unexpected argument {name!r}{hint} (--help lists all options)"
        if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
            name = f"{found[1]}.{found[2]}"
            return f"unknown config key {name!r}{self._ours(name)} (--print_config lists all)"
        if found := re.search(r"(?:Key|[Oo]ption) '([\w.]+)' is not (?:expected|accepted|valid)", message):
            return f"unknown config key {found[1]!r}{self._ours(found[1])} (--print_config lists all)"
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
        if found := re.search(r'Unable to load config .*Parser key "([\w.]+)"', message):
            below = [f"--{option}" for option in known if re.match(rf"{found[1]}\.\w+$", option)]
            return f"--{found[1]}: is a group of options, expected one of {', '.join(below)}"
        if found := re.search("Unexpected config: (.*)", message):
            return f"--config: found {shown(found[1])}, expected a YAML file of options (--print_config shows one)"
        if found := re.search(r'Parser key "([\w.]+)": (.*)', message):
            return f"--{found[1]}: {_short_type_error(found[2])}"
        return message

    def _unknown_option(self, name: str) -> str:
        return f"unknown option --{name}{self._ours(name)}"

    def _ours(self, name: str) -> str:
        """What the reader may have meant, by the names of other packages, by the last part of a dotted name, or by
        likeness; it begins with a semicolon.
        """
        known = self.known_options()
        plain = name.replace("-", "_")
        last = plain.rpartition(".")[2]
        ours = next((option for option in OTHER_NAMES.get(last, "").split() if option in known), None)
        note = NOTES.get(last)
        if ours or (note and last not in OTHER_NAMES):
            return f"; here it is --{ours}{f', {note}' if note else ''}" if ours else f"; {note}"
        same = [option for option in known if option == plain or option.rpartition(".")[2] == last]
        if "." in plain and (near := did_you_mean(plain, same)):
            return near
        if same:
            return f"; did you mean {' or '.join(map(repr, same[:3]))}?"
        lasts = {option.rpartition(".")[2]: option for option in reversed(known)}
        if near := did_you_mean(plain, known):
            return near
        close = difflib.get_close_matches(last, lasts, n=1, cutoff=0.7)
        return f"; did you mean {lasts[close[0]]!r}?" if close else ""

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


def separated(values: Sequence[str]) -> list[str]:
    """Texts with commas between, or of several arguments, or both."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _short_type_error(message: str) -> str:
    """What a value is and should be, from the list of everything that was tried."""
    if found := re.search(r"Subtypes: \[(.*?)\] Errors: .* Given value: (.*)", message):
        kinds = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", found[1]).split(", ")
        types = [re.sub(r"<class '(\w+)'>", r"\1", kind).strip("'") for kind in kinds]
        return f"found {found[2]!r}, expected {' or '.join('null' if kind == 'NoneType' else kind for kind in types)}"
    if found := re.search(r"Expected a typing.Literal\[(.*)\]. Got value: (.*)", message):
        choices = [choice.strip("'\"") for choice in found[1].split(", ")]
        return f"found {found[2]!r}, expected one of {', '.join(choices)}{did_you_mean(found[2], choices)}"
    if found := re.search(r"Expected a <class '(\w+)'>. Got value: (.*)", message):
        return f"found {found[2]!r}, expected {found[1]}"
    return message


# the options of the parser that parsed last, that of the command at work, by their names and the last parts of these
SPELLED: dict[str, str] = {}


NAME = r"[a-z]\w*(?:\.[a-z]\w*)*"
NO_WORD = r"[a-z][a-z0-9]*(?:[._][a-z0-9]+)+"  # batch_size and optim.lr are names wherever they stand


def in_options(message: str) -> str:
    """A message in which arguments of Python, `top_k: ...`, `optim.lr` or `dtype='fp32'`, are options of the command at
    work.
    """

    def option(name: str) -> str | None:
        return f"--{SPELLED[name]}" if name in SPELLED else None

    message = re.sub(rf"^{NAME}(?=: | is | ')", lambda found: option(found[0]) or found[0], message)
    message = re.sub(rf"\b(?:the )?option ({NAME})", lambda found: option(found[1]) or found[0], message)
    message = re.sub(
        rf"(?<![\w.-])({NAME})=(['\"]?)([\w./~-]*\w)\2(?![\w(])",
        lambda found: (
            f"{name} {found[3].lower() if found[3] in ('True', 'False') else found[3]}"
            if (name := option(found[1]))
            else found[0]
        ),
        message,
    )
    return re.sub(
        rf"(?<![\w./'\"=-]){NO_WORD}(?![\w/('\"=-]|\.\w)", lambda found: option(found[0]) or found[0], message
    )


REMEDIES = {
    errno.ENOENT: "check the path, or name another place",
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


def original_beside() -> Path | None:
    """The folder that holds the original package, which writes the same files, too; None where ours is alone."""
    folder = Path(__file__).parents[1]
    return folder if any(folder.glob("simcse-[0-9]*.*-info")) else None


def warn_of_original() -> None:
    """Say that the original package is installed into the same folder."""
    folder = original_beside()
    if folder is not None and os.environ.get("RANK", "0") == "0":
        print(
            f"warning: {folder} holds two packages, simcse (the original) and simcse-kit, which overwrite each other: "
            "pip uninstall -y simcse simcse-kit, then pip install simcse-kit",
            file=sys.stderr,
        )


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
    warn_of_original()
    try:
        command(arguments)
        sys.stdout.flush()
    except SimCSEError as error:
        if debug:
            raise
        if os.environ.get("RANK", "0") == "0" or not isinstance(error, ConfigError | DataError):
            # options and files are the same for all processes of a group: the first one speaks for them
            print(f"error: {' '.join(in_options(str(error)).split())}", file=sys.stderr)
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
