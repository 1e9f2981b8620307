"""Tiny models of many architectures, each with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tiny import VOCABULARY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedModel, PreTrainedTokenizerFast

SHAPE = {
    "vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "pad_token_id": 0,
}  # fmt: skip
MARKS = {"bos_token_id": 2, "eos_token_id": 3}
T5 = {
    "vocab_size": len(VOCABULARY), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
    "dropout_rate": 0.1, "decoder_start_token_id": 0,
}  # fmt: skip
# class, options of its configuration
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**SHAPE, "max_position_embeddings": 64}),
    "roberta": ("Roberta", {**SHAPE, **MARKS, "max_position_embeddings": 66}),
    "xlm-roberta": ("XLMRoberta", {**SHAPE, **MARKS, "max_position_embeddings": 66}),
    "distilbert": ("DistilBert", {
        "vocab_size": len(VOCABULARY), "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64,
        "max_position_embeddings": 64,
    }),
    "albert": ("Albert", {**SHAPE, "embedding_size": 16, "max_position_embeddings": 64, "hidden_dropout_prob": 0.1}),
    "electra": ("Electra", {**SHAPE, "embedding_size": 16, "max_position_embeddings": 64}),
    "mpnet": ("MPNet", {**SHAPE, **MARKS, "max_position_embeddings": 66}),
    "deberta-v2": ("DebertaV2", {
        **SHAPE, "max_position_embeddings": 64, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
    }),
    "modernbert": ("ModernBert", {
        **SHAPE, **MARKS, "cls_token_id": 2, "sep_token_id": 3, "max_position_embeddings": 64, "local_attention": 8,
        "global_attn_every_n_layers": 2, "attention_dropout": 0.1,
    }),
    "convbert": ("ConvBert", {
        **SHAPE, "embedding_size": 32, "max_position_embeddings": 64, "head_ratio": 2, "conv_kernel_size": 9,
    }),
    "fnet": ("FNet", {
        "vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64,
        "max_position_embeddings": 64, "pad_token_id": 0,
    }),
    "xlnet": ("XLNet", {
        "vocab_size": len(VOCABULARY), "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "pad_token_id": 0,
        **MARKS,
    }),
    "t5": ("T5", T5),
    "gpt2": ("GPT2", {
        "vocab_size": len(VOCABULARY), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **MARKS,
    }),
    "qwen2": ("Qwen2", {
        **SHAPE, **MARKS, "num_key_value_heads": 2, "max_position_embeddings": 64, "attention_dropout": 0.1,
        "vocab_size": len(VOCABULARY) + 1,  # its tokenizer adds a token of its own
    }),
}  # fmt: skip
CAUSAL = {"gpt2", "qwen2"}
LEAKING = {"convbert", "fnet"}  # which has no mask at all


def build(folder: Path, kind: str, *, model: str = "Model", seed: int = 0, **changes: object) -> PreTrainedModel:
    """Write a tiny model of a kind, its weights far enough from 0 that each token matters, and its tokenizer."""
    name, options = KINDS[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**options | changes)
    backbone: PreTrainedModel = getattr(transformers, f"{name}{model}")(config).eval()
    with torch.no_grad():
        for weight in backbone.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    backbone.save_pretrained(folder)
    if kind in CAUSAL:  # no special token around a text, and none to pad with
        words = Tokenizer(models.WordLevel({word: row for row, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[SEP]")
        tokenizer.save_pretrained(folder)
    else:
        vocabulary = folder / "vocab.txt"
        vocabulary.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
        BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    return backbone
