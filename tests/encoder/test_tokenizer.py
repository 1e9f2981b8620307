"""Where `tokenizer.json` alone says what transformers' tokenizer does, it is read alone; else transformers is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from simcse import SentenceEncoder
from simcse.encoder.configuration import PlainConfig, read_config
from simcse.encoder.tokenizer import plain_tokenizer, read_tokenizer
from simcse.tokens.on_demand import TokenizerOnDemand
from simcse.tokens.tokenize import Tokenize
from simcse.tokens.word_cache import splits_at_spaces

TEXTS = [
    "", " ", "A man plays the GUITAR.", "a man\tplays\n\nthe guitar\r\n", "[CLS] a [SEP] b [MASK] [PAD] [UNK]", "[sep]",
    "a[SEP]b", "Ünïcödé naïve café ÀÉÎ", "e\u0301 e\u0300 i\u0307 İstanbul ẞ ß ſ", "人は走る 漢字 한국어 カタカナ",
    "\U0001f600 \U0001f468‍\U0001f469‍\U0001f467 a", "\u200b\u200d\ufeff\u00ad a\u00a0b\u3000c\u2028d", "\0a\x01b\ufffdc",
    "'s don't \"a\" -- $5.00 #a @b a_b ~^|", "x" * 99, "x" * 100, "x" * 101, "word " * 700, "漢" * 600, "a-" * 400,
    "ﬁ ﬂ Å Ω ℌ ① ½", "\ud7ff\ue000", "مرحبا שלום नमस्ते ไทย", "THE\u0130 the\u0307", "#" * 300, " a  b   c ",
    "a##b ##a ##",
]  # fmt: skip
TOKENS = ("[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UNK]")
FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

Edit = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def edited(folder: Path, edit: Edit) -> Path:
    """The folder, its `tokenizer.json` and `tokenizer_config.json` changed."""
    files = folder / "tokenizer.json", folder / "tokenizer_config.json"
    parts, settings = (json.loads(file.read_text()) for file in files)
    edit(parts, settings)
    for file, content in zip(files, (parts, settings), strict=True):
        file.write_text(json.dumps(content))
    return folder


def plain_of(folder: Path) -> TokenizerOnDemand | None:
    config = read_config(folder)
    assert isinstance(config, PlainConfig)
    return plain_tokenizer(folder, config)


def right(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, config=AutoConfig.from_pretrained(folder)
    )
    return tokenizer


def check_ids(folder: Path, plain: TokenizerOnDemand) -> None:
    """All that is asked of it, and ids of all lengths."""
    whole = right(folder)
    assert (len(plain), plain.model_max_length) == (len(whole), whole.model_max_length)
    assert plain.num_special_tokens_to_add(pair=False) == whole.num_special_tokens_to_add(pair=False)
    assert plain.get_vocab() == whole.get_vocab()
    expected = [whole(text, truncation=False, verbose=False)["input_ids"] for text in TEXTS]
    assert [plain(text)["input_ids"] for text in TEXTS] == expected
    for length in (3, 17, 64, 10**6):
        found, cut = Tokenize(plain, length)(TEXTS)
        assert (found, cut) == Tokenize(whole, length)(TEXTS)
        assert found == whole(TEXTS, truncation=True, max_length=length)["input_ids"]
        assert cut == sum(len(ids) > length for ids in expected)


def test_the_packaged_model(minilm: Path) -> None:
    plain = plain_of(minilm)
    assert plain is not None
    check_ids(minilm, plain)


def normalizer(**entries: object) -> Edit:
    def edit(parts: dict[str, Any], settings: dict[str, Any]) -> None:
        parts["normalizer"].update(entries)
        names = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
        settings.update({names.get(key, key): value for key, value in entries.items()})

    return edit


def rows_of(parts: dict[str, Any]) -> dict[str, Any]:
    added = [dict(token) for token in parts["added_tokens"]]
    return {str(token.pop("id")): token for token in added}


PLAIN: dict[str, Edit] = {
    "as it is": lambda parts, settings: None,
    "cased": normalizer(lowercase=False),
    "accents stay": normalizer(strip_accents=False),
    "accents go": normalizer(lowercase=False, strip_accents=True),
    "characters together": normalizer(handle_chinese_chars=False),
    "nothing said": lambda parts, settings: settings.clear(),
    "no limit": lambda parts, settings: settings.pop("model_max_length"),
    "limit of old": lambda parts, settings: settings.update(model_max_length=1000000000000000019884624838656),
    "cut and padded": lambda parts, settings: parts.update(
        truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        padding={"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": "[PAD]"},
    ),
    "as version 4 saved it": lambda parts, settings: settings.update(
        added_tokens_decoder=rows_of(parts), clean_up_tokenization_spaces=True, do_basic_tokenize=False,
        never_split=None, tokenizer_class="BertTokenizerFast",
        unk_token={"content": "[UNK]", "__type": "AddedToken"} | FLAGS,
    ),
    "of another class": lambda parts, settings: settings.update(tokenizer_class="PreTrainedTokenizerFast"),
    "of DistilBERT's class": lambda parts, settings: settings.update(tokenizer_class="DistilBertTokenizer"),
    "of ELECTRA's class": lambda parts, settings: settings.update(tokenizer_class="ElectraTokenizerFast"),
}  # fmt: skip


@pytest.mark.parametrize("edit", PLAIN.values(), ids=[*PLAIN])
def test_a_plain_one_gives_the_ids_of_transformers(folder: Path, edit: Edit) -> None:
    plain = plain_of(edited(folder, edit))
    assert plain is not None
    check_ids(folder, plain)


@pytest.mark.parametrize("flags", [False, True])
def test_a_map_of_the_special_tokens_is_plain(folder: Path, flags: bool) -> None:
    named = {f"{token[1:-1].lower()}_token": {"content": token} | FLAGS if flags else token for token in TOKENS}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    plain = plain_of(folder)
    assert plain is not None
    check_ids(folder, plain)


def add(parts: dict[str, Any], content: str, row: int, **flags: bool) -> None:
    parts["added_tokens"].append({"id": row, "content": content, "special": False} | FLAGS | flags)


def around(parts: dict[str, Any], settings: dict[str, Any]) -> None:
    parts["post_processor"]["single"].insert(0, parts["post_processor"]["single"][0])


OTHERS: dict[str, Edit] = {
    "cased by the settings alone": lambda parts, settings: settings.update(do_lower_case=False),
    "cased by the file alone": lambda parts, settings: parts["normalizer"].update(lowercase=False),
    "accents by the settings alone": lambda parts, settings: settings.update(strip_accents=False),
    "not cleaned": lambda parts, settings: parts["normalizer"].update(clean_text=False),
    "more tokens": lambda parts, settings: add(parts, "guitar", parts["model"]["vocab"]["guitar"]),
    "tokens after spaces": lambda parts, settings: parts["added_tokens"][4].update(lstrip=True),
    "fewer tokens": lambda parts, settings: parts["added_tokens"].pop(),
    "short words": lambda parts, settings: parts["model"].update(max_input_chars_per_word=5),
    "two at the beginning": around,
    "split at spaces": lambda parts, settings: parts.update(pre_tokenizer={"type": "WhitespaceSplit"}),
    "another separator": lambda parts, settings: settings.update(sep_token="[MASK]"),
    "a token of its own": lambda parts, settings: settings.update(extra_special_tokens=["guitar"]),
    "a token by another name": lambda parts, settings: settings.update(piano_token="piano"),
    "special tokens split": lambda parts, settings: settings.update(split_special_tokens=True),
    "an entry of another time": lambda parts, settings: settings.update(some_entry=1),
    "a limit of old": lambda parts, settings: settings.update(max_len=settings.pop("model_max_length")),
    "cut at the left": lambda parts, settings: settings.update(truncation_side="left"),
}  # fmt: skip


@pytest.mark.parametrize("edit", OTHERS.values(), ids=[*OTHERS])
def test_all_else_is_left_to_transformers(folder: Path, edit: Edit) -> None:
    assert plain_of(edited(folder, edit)) is None
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", max_length=64)
    assert isinstance(encoder.loaded_tokenizer, PreTrainedTokenizerBase)
    assert encoder.tokenize()(TEXTS) == Tokenize(right(folder), 64)(TEXTS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", '{"guitar": 99}'),
        ("chat_template.jinja", "{{ messages }}"),
        ("special_tokens_map.json", '{"mask_token": "guitar"}'),
        ("special_tokens_map.json", '{"mask_token": {"content": "[MASK]", "lstrip": true}}'),
        ("special_tokens_map.json", '{"mask_token": {"content": "[MASK]", "__type": "AddedToken"}}'),
        ("tokenizer_config.json", '{"mask_token": {"content": "[MASK]"}}'),
        ("tokenizer_config.json", '{"tokenizer_class": "RobertaTokenizer"}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"model_max_length": "64"}'),
        ("tokenizer_config.json", '{"model_max_length": 0}'),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "{"),
    ],
)
def test_files_that_transformers_has_to_read(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    assert plain_of(folder) is None


def test_the_one_made_on_demand_is_that_of_the_folder_even_if_it_is_gone(folder: Path) -> None:
    config = read_config(folder)
    expected, plain = read_tokenizer(folder, config), plain_of(folder)
    assert plain is not None
    whole = plain.whole()
    assert whole is plain.whole()
    compare(whole, expected)
    other = plain_of(folder)
    assert other is not None
    shutil.rmtree(folder)
    assert other.whole().get_vocab() == expected.get_vocab()


def compare(found: PreTrainedTokenizerBase, expected: PreTrainedTokenizerBase) -> None:
    assert type(found) is type(expected)
    assert repr(found) == repr(expected)
    assert {key: repr(value) for key, value in vars(found).items() if key != "_tokenizer"} == {
        key: repr(value) for key, value in vars(expected).items() if key != "_tokenizer"
    }
    states: list[str] = [one.backend_tokenizer.to_str() for one in (found, expected)]
    assert states[0] == states[1]
    assert Tokenizer.from_str(states[0]).encode("a man").ids == expected("a man")["input_ids"]


@pytest.mark.parametrize("include_prompt", [True, False])
def test_prompts_by_either_tokenizer(folder: Path, include_prompt: bool, sentences: list[str]) -> None:
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", pooling="mean")
    encoder.include_prompt = include_prompt
    plain = encoder.encode([*sentences, "", "\u200b"], prompt="the old man: ")
    assert isinstance(encoder.loaded_tokenizer, TokenizerOnDemand)
    assert isinstance(encoder.tokenizer, PreTrainedTokenizerBase)
    np.testing.assert_array_equal(encoder.encode([*sentences, "", "\u200b"], prompt="the old man: "), plain)


def test_a_plain_one_is_its_words_one_after_another(folder: Path) -> None:
    """`Tokenize` counts on it without looking."""
    plain = plain_of(folder)
    assert plain is not None
    assert splits_at_spaces(plain.backend_tokenizer)
