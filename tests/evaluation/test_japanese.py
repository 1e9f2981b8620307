"""Japanese end to end: a tokenizer learned here from Japanese sentences, an encoder on top, JSTS's own file layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simcse.evaluation.sts import TASKS
from simcse.evaluation.suite import evaluate

PLACES = ["公園", "海", "台所", "駅", "川べり"]
WHO = ["男性", "女性", "子供", "犬", "二人の人"]
ACTS = ["立っています", "走っています", "ギターを弾いています", "本を読んでいます", "眠っています"]
SENTENCES = [f"{place}で{who}が{act}。" for place in PLACES for who in WHO for act in ACTS]


@pytest.fixture(scope="module")
def japanese_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-layer BERT over a Unigram vocabulary: no spaces between words, as SentencePiece handles Japanese."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], unk_token="[UNK]",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-ja"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def test_words_are_found_without_spaces(japanese_encoder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(japanese_encoder)
    ids = tokenizer("公園で犬が眠っています。")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert len(ids) < 2 + len("公園で犬が眠っています。")  # pieces longer than a character


def test_jsts_is_judged_by_name(japanese_encoder: Path, tmp_path: Path) -> None:
    """Gold = how many of place, who and act agree: even random weights see shared pieces."""
    from simcse import SentenceEncoder

    task = TASKS["JSTS"]
    folder = tmp_path / task.folder
    folder.mkdir(parents=True)
    rows = []
    for i in range(0, len(SENTENCES) - 7, 3):
        for j in (i, i + 1, i + 7):
            same = (i // 25 == j // 25) + (i // 5 % 5 == j // 5 % 5) + (i % 5 == j % 5)
            rows.append({"sentence1": SENTENCES[i], "sentence2": SENTENCES[j], "label": 5 * same / 3})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "valid-v1.3.json").write_text("".join(lines), encoding="utf-8")
    encoder = SentenceEncoder.from_pretrained(japanese_encoder, pooling="mean", device="cpu", dtype="fp32")
    report = evaluate(encoder.encode, ["JSTS"], tmp_path)
    [result] = report.results
    assert (result.name, result.split, result.n) == ("JSTS", "valid", len(rows))
    assert result.metrics["spearman"] > 70
