"""Wrong options are told in the words of whoever typed them, and lists are taken as people write them."""

from __future__ import annotations

import pytest

from simcse.cli import build_parser
from simcse.console import Parser, in_options, separated
from simcse.errors import ConfigError
from simcse.option_names import NOTES, OTHER_NAMES
from simcse.training.config import TrainConfig


def training_parser() -> Parser:
    parser = Parser(prog="train.py")
    parser.add_class_arguments(TrainConfig, None, fail_untyped=False)
    return parser


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--lr 1e-5", "unknown option --lr; did you mean 'optim.lr'?"),
        ("--optim.learning_rate 1e-5", "unknown option --optim.learning_rate; here it is --optim.lr"),
        ("--learning_rate 1e-5", "unknown option --learning_rate; here it is --optim.lr"),
        ("--model_name_or_path x", "unknown option --model_name_or_path; here it is --model.name"),
        ("--num_train_epochs 1", "unknown option --num_train_epochs; here it is --epochs"),
        ("--train_file x", "unknown option --train_file; here it is --data.train"),
        ("--max_seq_length 32", "unknown option --max_seq_length; here it is --max_length"),
        ("--output-dir x", "unknown option --output-dir; did you mean 'output_dir'?"),
        ("--dropot 0.1", "unknown option --dropot; did you mean 'model.dropout'?"),
        ("--mlp_only_train", "here it is --model.projection, whose value train means that"),
        ("--per_device_train_batch_size 64", "here it is --batch_size, the rows of all devices together"),
        ("--gradient_accumulation_steps 2", "; accumulating adds no negatives: --batch_size is the whole batch"),
        ("--temp 1 --pooler_type cls", "--temp; here it is --temperature; unknown option --pooler_type; here it "),
        ("--model.pooling avg", "--model.pooling: found 'avg', expected cls or mean or last_token or "),
        ("-k 3", "unknown option -k (--help lists all)"),
        ("--data x", "--data: is a group of options, expected one of --data.train, --data.columns"),
    ],
)
def test_names_of_other_packages_and_last_parts_are_understood(typed, told):
    with pytest.raises(ConfigError) as caught:
        training_parser().parse_args(typed.split())
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("index search idx q --threshold 0.5", "unknown option --threshold; here it is --min_score"),
        ("index search idx q -k 3", "unknown option -k; here it is --top_k"),
        ("cluster idx --k 3", "unknown option --k; here it is --clusters"),
        ("evaluate x", "unexpected argument 'x'; did you mean --model x?"),
        ("encode --pooler cls --model x", "unknown option --pooler; here it is --pooling"),
    ],
)
def test_so_they_are_behind_a_command(typed, told):
    with pytest.raises(ConfigError, match=told):
        build_parser().parse_args(typed.split())


def test_every_name_of_ours_that_is_told_exists():
    ours = {name for names in OTHER_NAMES.values() for name in names.split()}
    parsers = [training_parser(), build_parser()]
    known = set()
    while parsers:
        parser = parsers.pop()
        known |= set(parser.known_options())
        parsers += [p for a in parser._actions if isinstance(a.choices, dict) for p in a.choices.values()]
    assert ours - known <= {"tasks"}  # of evaluate.py
    for name in (*OTHER_NAMES, *NOTES):
        assert name not in training_parser().known_options()


@pytest.mark.parametrize(
    "typed", ["question,answer", "question, answer", "[question, answer]", '["question","answer"]', "question answer"]
)
def test_lists_by_comma_bracket_or_space(typed):
    values = typed.split() if typed == "question answer" else [typed]
    parsed = training_parser().parse_args(["--data.columns", *values, "--trackers=wandb", "--seed", "3"])
    assert (parsed.data.columns, parsed.trackers, parsed.seed) == (["question", "answer"], ["wandb"], 3)


@pytest.mark.parametrize("typed", ["64,128", "[64, 128]", "64 128"])
def test_lists_of_numbers(typed):
    values = typed.split() if typed == "64 128" else [typed]
    assert training_parser().parse_args(["--matryoshka", *values, "--seed", "3"]).matryoshka == [64, 128]


def test_no_list_at_all():
    assert training_parser().parse_args(["--data.columns", "null"]).data.columns is None
    with pytest.raises(ConfigError, match=r"data\.columns"):
        training_parser().parse_args(["--data.columns"])


def test_lists_of_commands_by_comma_and_files_by_space():
    typed = "index build a.txt b,c.txt --model m --output o --metadata_columns lang,year"
    build = build_parser().parse_args(typed.split()).index.build
    assert (build.files, separated(build.metadata_columns)) == (["a.txt", "b,c.txt"], ["lang", "year"])
    inspected = build_parser().parse_args(["inspect-data", "--columns", "q,a", "f.csv"])["inspect-data"]
    assert (inspected.source, inspected.columns) == ("f.csv", ["q", "a"])


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("top_k: found 0, expected a whole number", "--top_k: found 0, expected a whole number"),
        ("dtype 'float23' is not one of auto, fp32", "--dtype 'float23' is not one of auto, fp32"),
        (
            "the weights overflow in this dtype: try dtype='fp32'",
            "the weights overflow in this dtype: try --dtype fp32",
        ),
        ("f.csv: found columns a, b; name yours", "f.csv: found columns a, b; name yours"),
        ("query 0: found a blank text where=1", "query 0: found a blank text --where 1"),
        ("metadata 'x=1' is set", "metadata 'x=1' is set"),
    ],
)
def test_arguments_are_told_as_options(message, told):
    build_parser().parse_args(["index", "search", "idx", "q"])
    assert in_options(message) == told
    training_parser().parse_args([])
    assert in_options("f.csv:3: blank; leave such rows out: blank_lines=skip") == (
        "f.csv:3: blank; leave such rows out: --data.blank_lines skip"
    )
    assert in_options("name the columns with the option columns") == "name the columns with --data.columns"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("optim.lr is nan: must be above 0", "--optim.lr is nan: must be above 0"),
        ("128 rows are fewer than batch_size=129; lower it", "128 rows are fewer than --batch_size 129; lower it"),
        ("step 6: set model.dropout=0.1, or precision=fp32", "step 6: set --model.dropout 0.1, or --precision fp32"),
        ("x: lower optim.lr, or raise the option temperature", "x: lower --optim.lr, or raise --temperature"),
        ("output_dir=/a/b-c holds another run; resume=auto", "--output_dir /a/b-c holds another run; --resume auto"),
        ("data.dev_corpus needs data.dev, the file", "--data.dev_corpus needs --data.dev, the file"),
        ("runs/data.train: no such file", "runs/data.train: no such file"),
        ("f.csv: the seed, 'batch_size' and \"data.dev\"", "f.csv: the seed, 'batch_size' and \"data.dev\""),
        ("optim.dropout and train.lr are none", "optim.dropout and train.lr are none"),
    ],
)
def test_names_of_python_are_told_as_options_wherever_they_stand(message, told):
    training_parser().parse_args([])
    assert in_options(message) == told


def test_a_file_without_its_option_is_told_where_it_belongs():
    with pytest.raises(ConfigError, match=r"'t\.txt'; did you mean --data\.train t\.txt\?"):
        training_parser().parse_args(["t.txt"])
