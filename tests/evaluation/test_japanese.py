"""Japanese end to end: a tokenizer learned here from Japanese sentences, an encoder on top, JSTS's own file layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simcse.errors import DataError
from simcse.evaluation.sts import load_task
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


def test_jsts_is_evaluated_by_name(japanese_encoder: Path, tmp_path: Path) -> None:
    """Gold = how many of place, who and act agree: even random weights see shared pieces."""
    from simcse import SentenceEncoder

    folder = tmp_path / "JGLUE" / "jsts-v1.3"
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


@pytest.mark.parametrize(
    ("jglue", "jsick", "data_dir"),
    [
        ("JGLUE/jsts-v1.3", "JSICK/jsick", "."),  # README's words
        ("JGLUE/datasets/jsts-v1.3", "JSICK/jsick", "."),  # both repositories as they are cloned
        ("ja/JGLUE/jsts-v1.3", "ja/JSICK/jsick", "."),
        ("ja/JGLUE/jsts-v1.3", "ja/JSICK/jsick", "ja"),
        ("ja/JGLUE/jsts-v1.3", "ja/JSICK/jsick", "senteval"),  # beside SentEval's root, as retrieval's `ir`
    ],
)
def test_the_japanese_tasks_are_found_where_the_readme_says(
    tmp_path: Path, word_vectors, jglue: str, jsick: str, data_dir: str
) -> None:
    for folder in (jglue, jsick, "senteval"):
        (tmp_path / folder).mkdir(parents=True)
    rows = [{"sentence1": "a b", "sentence2": "a c", "label": 3}, {"sentence1": "a", "sentence2": "d e", "label": 0}]
    (tmp_path / jglue / "valid-v1.3.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("sentence_A", "sentence_B", "relatedness_score")
    header = ["pair_ID", "data", *(f"{name}_En" for name in columns), *(f"{name}_Ja" for name in columns)]
    lines = ["\t".join(header), "1\tt\tx\ty\t1.0\ta b\ta c\t4.2", "2\tt\tx\ty\t1.0\ta\td e\t1.3"]
    (tmp_path / jsick / "test.tsv").write_text("".join(line + "\n" for line in lines))
    report = evaluate(word_vectors, ["japanese"], tmp_path / data_dir)
    found = {result.name: result.metrics["spearman"] for result in report.results}
    assert found == pytest.approx({"JSTS": 100, "JSICK": 100})


def test_a_missing_japanese_task_names_its_place(tmp_path: Path, word_vectors) -> None:
    with pytest.raises(DataError, match=r"JGLUE/jsts-v1\.3: not found, and JSTS needs it"):
        evaluate(word_vectors, ["japanese"], tmp_path)


def test_the_real_jsts_is_found_from_either_folder(data_dir: Path) -> None:
    for folder in (data_dir, data_dir / "ja", data_dir / "senteval"):
        assert [len(part) for part in load_task("JSTS", folder)] == [1457]
