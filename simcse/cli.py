"""The `simcse` command: a tree of subcommands over the functions in `simcse.commands`.

A function's signature and docstring are its options and its help. Heavy modules are imported inside the functions, so
that `simcse --help` is instant.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from simcse.commands import (
    compare,
    corpus,
    data,
    doctor,
    encode,
    evaluate,
    export,
    index,
    info,
    mcp,
    plot,
    postprocess,
    push,
    quickstart,
    recipes,
    runs,
    serve,
    soup,
    train,
)
from simcse.console import Parser, run, separated
from simcse.errors import ConfigError, did_you_mean

__all__ = ["main"]

DESCRIPTION = "Train and evaluate sentence encoders; encode, compare and search sentences."
SHELLS = ("bash", "zsh")  # for which shtab completes well


class Command(NamedTuple):
    """A function; which of its arguments are positional (`*` any number, `+` at least one, `?` one or none, None one);
    which are lists, by spaces or commas; which are texts, by spaces alone.
    """

    function: Callable[..., None]
    positional: dict[str, str | None]
    lists: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class Program(NamedTuple):
    """A command with a parser of its own: what runs it, and what makes the parser."""

    main: Callable[[Sequence[str]], None]
    build_parser: Callable[[], Parser]


def completion(shell: str) -> None:
    """Print the script by which a shell completes commands and options.

    For bash: simcse completion bash > ~/.simcse.bash, and source ~/.simcse.bash in ~/.bashrc. For zsh: simcse
    completion zsh > ~/.zfunc/_simcse, where fpath in ~/.zshrc holds ~/.zfunc before compinit.

    Args:
        shell: bash or zsh
    """
    if shell not in SHELLS:
        raise ConfigError(f"SHELL: found {shell!r}, expected {' or '.join(SHELLS)}{did_you_mean(shell, SHELLS)}")
    print(build_parser().get_completion_script(f"shtab-{shell}"))


COMMANDS: dict[str, Command | Program | tuple[str, dict[str, Command]]] = {
    "train": Program(train.main, train.build_parser),
    "evaluate": Program(evaluate.main, evaluate.build_parser),
    "quickstart": Program(quickstart.main, quickstart.build_parser),
    "recipes": Command(recipes.recipes, {}),
    "runs": Command(runs.runs, {"folder": "?"}),
    "encode": Command(encode.encode, {"inputs": "*"}),
    "similarity": Command(encode.similarity, {"texts": "*"}),
    "index": (
        "Build, search and change an index of texts.",
        {
            "build": Command(index.build, {"files": "*"}, ("metadata_columns",), ("input", "vectors")),
            "search": Command(index.search, {"index": None, "query": "*"}, texts=("where",)),
            "add": Command(index.add, {"index": None, "files": "*"}, ("metadata_columns",), ("input", "vectors")),
            "delete": Command(index.delete, {"index": None, "id": "*"}, texts=("ids",)),
            "compact": Command(index.compact, {"index": None}),
            "export": Command(index.export, {"index": None}),
            "info": Command(index.info, {"index": None}),
        },
    ),
    "data": (
        "Fetch the files of the SimCSE paper, or make a corpus of Python's documentation.",
        {"sts": Command(data.sts, {}), "python-docs": Command(data.python_docs, {})},
    ),
    "inspect-data": Command(corpus.inspect_data, {"source": None}),
    "mine": Command(corpus.mine, {"pairs": None}),
    "score-pairs": Command(corpus.score_pairs, {"inputs": "*"}),
    "paraphrases": Command(corpus.paraphrases, {"inputs": "*"}),
    "dedup": Command(corpus.dedup, {"index": None}),
    "cluster": Command(corpus.cluster, {"index": None}),
    "export": Command(export.export, {"model": None}),
    "push": Command(push.push, {"path": None, "repo": None}),
    "serve": Command(serve.serve, {"index": "?"}),
    "mcp": Command(mcp.mcp, {"index": None}),
    "compare": Command(compare.compare, {"a": None, "b": None}, ("tasks",)),
    "plot": Command(plot.plot, {"runs": "+"}, ("kinds", "formats")),
    "soup": Command(soup.soup, {"models": "+"}),
    "postprocess": Command(postprocess.postprocess, {"input": None}),
    "info": Command(info.info, {"model": None}),
    "doctor": Command(doctor.doctor, {}),
    "completion": Command(completion, {"shell": None}),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 done, 1 failed, 2 wrong use; see `simcse.console.run`.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    atexit.register(gc.freeze)  # at its end the interpreter would look through all that was imported, several times
    return run(_dispatch, argv)


def _dispatch(arguments: Sequence[str]) -> None:
    if arguments and isinstance(program := COMMANDS.get(arguments[0]), Program):
        program.main(arguments[1:])
        return
    chosen = build_parser(arguments).parse_args(list(arguments))
    entry, options = COMMANDS[chosen.command], chosen[chosen.command]
    if not isinstance(entry, Command | Program):
        entry, options = entry[1][options.command], options[options.command]
    assert isinstance(entry, Command)
    values = {name: value for name, value in vars(options).items() if name != "config"}
    entry.function(**values | {name: separated(values[name]) for name in entry.lists})


def build_parser(arguments: Sequence[str] | None = None) -> Parser:
    """The tree of commands; the options of those that `arguments` name, default of all.

    Making options resolves annotations, which may import what they name: nobody should wait for that of other commands.
    """
    parser = Parser(prog="simcse", description=DESCRIPTION)
    subcommands = parser.add_subcommands(dest="command", title="commands", metavar="COMMAND")
    for name, entry in COMMANDS.items():
        if isinstance(entry, Program):  # it parses for itself: here it is for --help
            own = Parser() if arguments is not None else entry.build_parser()
            subcommands.add_subcommand(name, own, help=(entry.main.__doc__ or "").partition("\n")[0])
            continue
        if isinstance(entry, Command):
            _add(subcommands, name, entry, name, arguments)
            continue
        group = Parser(description=entry[0], usage=f"simcse {name} COMMAND ...")
        subcommands.add_subcommand(name, group, help=entry[0])
        nested = group.add_subcommands(dest="command", title="commands", metavar="COMMAND")
        for below, command in entry[1].items():
            _add(nested, below, command, f"{name} {below}", arguments)
    return parser


def _add(subcommands: Any, name: str, command: Command, path: str, arguments: Sequence[str] | None) -> None:
    from docstring_parser import parse

    function = command.function
    described = parse(function.__doc__ or "")
    helps = {parameter.arg_name: " ".join((parameter.description or "").split()) for parameter in described.params}
    signature = list(inspect.signature(function).parameters.values())
    needed = [f"--{p.name} {p.name.upper()}" for p in signature if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    forms = {"*": "[{} ...]", "?": "[{}]"}
    places = [forms.get(count or "", "{}").format(name.upper()) for name, count in command.positional.items()]
    parser = Parser(
        description=f"{described.short_description} {described.long_description or ''}",
        usage=" ".join(["simcse", path, *places, *needed, "[options]"]),
    )
    subcommands.add_subcommand(name, parser, help=described.short_description)
    if arguments is not None and name not in arguments:
        return
    for argument, count in command.positional.items():
        action = parser.add_argument(argument, nargs=count, help=helps[argument], metavar=argument.upper())
        action.required = count not in forms
    for argument in (*command.lists, *command.texts):
        parser.add_argument(f"--{argument}", nargs="+", type=str, default=[], help=helps[argument])
    switches = [p.name for p in signature if p.default is False]
    for argument in switches:
        parser.add_argument(f"--{argument}", action="store_true", help=helps[argument])
    parser.add_function_arguments(function, skip={*command.positional, *command.lists, *command.texts, *switches})
    if any(p.name == "format" and p.annotation == "Format" for p in signature):  # of what is printed, not of a file
        parser.add_json()
    parser.add_argument("--config", action="config", help="YAML file of these options")
