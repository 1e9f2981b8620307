"""A checkpoint folder -> tokenizer: by transformers, or by its `tokenizer.json` alone where that says the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from simcse.encoder.backends.bert_modules import BertModules
from simcse.encoder.configuration import PlainConfig, whole_config
from simcse.encoder.quiet import first_line, quiet_transformers
from simcse.errors import ModelError
from simcse.tokens.on_demand import TokenizerOnDemand

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_tokenizer"]

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
# what transformers makes a tokenizer of; where there are others, too, it is asked at once
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
OTHER_FILES = ("added_tokens.json", "chat_template.jinja", "additional_chat_templates")
NO_LIMIT = int(1e30)  # what transformers takes where no file names a maximum length
SPECIAL = {
    "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]",
}  # fmt: skip
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}  # of those
MODEL = {
    "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
}  # fmt: skip
TEMPLATE = [
    {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}},
    {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
]
# what a plain tokenizer_config.json may hold beside those tokens: entries that change no id, and values that do not
UNUSED = frozenset({
    "clean_up_tokenization_spaces", "do_basic_tokenize", "is_local", "local_files_only", "max_length",
    "name_or_path", "pad_to_multiple_of", "pad_token_type_id", "special_tokens_map_file", "stride",
    "tokenizer_file", "truncation_strategy",
})  # fmt: skip
USUAL: dict[str, tuple[Any, ...]] = {
    "additional_special_tokens": ([], None), "backend": ("tokenizers",), "do_lower_case": (True, False),
    "extra_special_tokens": ([], {}, None), "never_split": (None,), "padding_side": ("right",),
    "strip_accents": (None, True, False), "tokenize_chinese_chars": (True, False), "truncation_side": ("right",),
    "tokenizer_class": (
        None, "BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast",
        "ElectraTokenizer", "ElectraTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend",
    ),
}  # fmt: skip


def load_tokenizer(
    folder: Path, backbone: PreTrainedModel | BertModules, *, lower_case: bool = False
) -> PreTrainedTokenizerBase | TokenizerOnDemand:
    """The tokenizer of a checkpoint folder.

    Args:
        folder: the checkpoint.
        backbone: what reads the tokens.
        lower_case: whether the checkpoint counts on texts in lower case.

    Raises:
        ModelError: there is none, its files are damaged, it knows tokens that the backbone does not, or it keeps
            capitals though it should not.
    """
    if not any(file for pattern in VOCABULARIES for file in folder.glob(pattern)):  # else an empty vocabulary would do
        raise ModelError(f"{folder}: no usable tokenizer (none of {', '.join(VOCABULARIES)}); copy its files there")
    config: Any = backbone.config
    plain = plain_tokenizer(folder, config) if isinstance(config, PlainConfig) else None
    tokenizer: Any = plain or read_tokenizer(folder, config)
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1:
        raise ModelError(
            f"{folder / 'tokenizer_config.json'}: 'model_max_length' is {longest!r:.40}, expected at least 1 token"
        )
    if lower_case and tokenizer("A CAT")["input_ids"] != tokenizer("a cat")["input_ids"]:
        raise ModelError(
            f"{folder}: 'do_lower_case' is true in sentence-transformers' file, but the tokenizer keeps capitals; give "
            "tokenizer.json a Lowercase normalizer, or set it to false and encode texts in lower case"
        )
    embeddings: Any = backbone.get_input_embeddings()
    rows = len(embeddings.weight)
    if len(tokenizer) > rows and (highest := max(tokenizer.get_vocab().values())) >= rows:
        raise ModelError(
            f"{folder}: the tokenizer counts its tokens up to {highest}, but the backbone has embeddings up to "
            f"{rows - 1}; one of the two is another checkpoint's"
        )
    return tokenizer  # type: ignore[no-any-return]


@quiet_transformers()
def read_tokenizer(folder: Path, config: PretrainedConfig | PlainConfig) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of a folder.

    Raises:
        ModelError: its files are damaged.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=whole_config(config), trust_remote_code=False
        )
        tokenizer("a text")
    except Exception as error:  # tokenizer files fail in as many ways as there are parsers
        raise ModelError(f"{folder}: no usable tokenizer ({first_line(error)}); copy its files there anew") from error
    if tokenizer.pad_token is None:  # nothing is padded here, but sentence-transformers asks for one
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def plain_tokenizer(folder: Path, config: PlainConfig) -> TokenizerOnDemand | None:
    """`tokenizer.json` by itself; None where transformers might make something else of the folder, or object."""
    if any((folder / name).exists() for name in OTHER_FILES):
        return None
    try:
        files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
        parts, settings, named = (json.loads(files.get(name, b"{}")) for name in FILES)
        if not is_plain(parts, settings, named):
            return None
        tokenizer = Tokenizer.from_buffer(files[FILES[0]])
        tokenizer.no_padding()
        tokenizer.no_truncation()
    except Exception:  # read again by transformers, whose reader's errors are told
        return None
    longest = settings.get("model_max_length", NO_LIMIT)
    return TokenizerOnDemand(tokenizer, longest, partial(from_files, files, folder, config))


def from_files(files: Mapping[str, bytes], folder: Path, config: PlainConfig) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of these files as they were read in the folder, whatever lies there now."""
    with TemporaryDirectory() as place:
        for name, content in files.items():
            (Path(place) / name).write_bytes(content)
        tokenizer = read_tokenizer(Path(place), config)
    tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = str(folder)
    if (words := folder / "vocab.txt").is_file():  # which is copied where a vocabulary is saved, and not read
        tokenizer.vocab_file = tokenizer.init_kwargs["vocab_file"] = str(words)
    return tokenizer


def is_plain(parts: dict[str, Any], settings: dict[str, Any], named: dict[str, Any]) -> bool:
    """Whether transformers builds a tokenizer that gives the ids of `tokenizer.json`: BERT's, as it is always built.

    Args:
        parts: `tokenizer.json`.
        settings: `tokenizer_config.json`.
        named: `special_tokens_map.json`.
    """
    ids, model, around = parts["model"]["vocab"], parts["model"], parts["post_processor"]
    tokens = {ids[name]: {"content": name, "special": True} | FLAGS for name in SPECIAL.values()}
    built = {
        "added_tokens": [{"id": row} | tokens[row] for row in sorted(tokens)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
    }
    return (
        all(parts[key] == value for key, value in built.items())
        and {key: value for key, value in model.items() if key != "vocab"} == MODEL
        and [around["type"], around["single"]] == ["TemplateProcessing", TEMPLATE]
        and all(around["special_tokens"][name]["ids"] == [ids[name]] for name in ("[CLS]", "[SEP]"))
        and all(is_usual(key, value, tokens) for key, value in settings.items())
        and all(is_token(key, value) for key, value in named.items())
    )


def is_usual(key: str, value: Any, tokens: dict[int, dict[str, Any]]) -> bool:
    """Whether an entry of `tokenizer_config.json` leaves the ids as they are; `tokens` are the special ones by id."""
    if key == "model_max_length":
        return type(value) in (int, float) and value >= 1
    if key == "added_tokens_decoder":
        return bool(value == {str(row): token for row, token in tokens.items()})
    if key in UNUSED or is_token(key, value, __type="AddedToken"):
        return True
    return any(type(value) is type(usual) and value == usual for usual in USUAL.get(key, ()))


def is_token(key: str, value: Any, **mark: str) -> bool:
    """Whether this is one of BERT's special tokens, by its usual name: as a text, or with flags and that mark."""
    name = SPECIAL.get(key)
    flags = {"content": name, "special": True} | FLAGS | mark
    marked = isinstance(value, dict) and {"content", *mark} <= value.keys() and value.items() <= flags.items()
    return name is not None and (marked or bool(value == name))
