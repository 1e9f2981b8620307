"""Encoders that are small but real: a WordPiece vocabulary and 2 layers of random weights."""

from __future__ import annotations

from pathlib import Path

WORDS = [
    "a", "the", "man", "woman", "dog", "cat", "child", "is", "was", "runs", "eats", "sleeps", "plays", "sings",
    "guitar", "piano", "music", "food", "bread", "water", "park", "street", "house", "red", "blue", "green", "big",
    "small", "old", "young", "fast", "slow", "in", "on", "at", "with", "and", "or", "not", "no", "two", "three",
    "people", "ball", "game", "swim", "walk", "talk", "read", "write", "book", "paper", "city", "river", "mountain",
    "sun", "rain", "snow", "morning", "night", "happy", "sad",
]  # fmt: skip
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?'\"-"]
VOCABULARY = list(dict.fromkeys(SPECIALS + LETTERS + [f"##{c}" for c in LETTERS[:36]] + WORDS))


def build_encoder(folder: Path, *, kind: str = "bert", seed: int = 0, dropout: float = 0.1, hidden: int = 32) -> Path:
    """Write a 2-layer encoder of random weights with its tokenizer, as a plain Hugging Face folder."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast, RobertaConfig, RobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    wordpiece = BertWordPieceTokenizer({word: row for row, word in enumerate(VOCABULARY)}, lowercase=True)
    BertTokenizerFast(tokenizer_object=wordpiece._tokenizer, model_max_length=64).save_pretrained(folder)
    shape = {
        "vocab_size": len(VOCABULARY), "hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 2 * hidden, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout,
        "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(seed)
    if kind == "bert":
        model = BertModel(BertConfig(max_position_embeddings=64, **shape))
    else:
        model = RobertaModel(RobertaConfig(max_position_embeddings=66, bos_token_id=2, eos_token_id=3, **shape))
    model.save_pretrained(folder)
    return folder
