"""The model card of best/: README.md as the hub reads it, from what a run was and found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from simcse.display.summary import NAMES, run_rows
from simcse.display.tables import Table, markdown, number
from simcse.encoder.model import SentenceEncoder
from simcse.encoder.saving import pooler_weights
from simcse.files import sha256_of
from simcse.training.config import TrainConfig

__all__ = ["model_card", "with_name", "with_seeds"]

TAGS = ["sentence-transformers", "feature-extraction", "sentence-similarity", "simcse", "contrastive-learning"]
STATES = "output.last_hidden_state"
MEAN = "({states} * mask).sum(1) / mask.sum(1)"
# pooling -> the vector before normalisation, from what AutoModel gives for a batch that is padded on the right
POOLED = {
    "cls": f"{STATES}[:, 0]",
    "last_token": f"{STATES}[torch.arange(len(texts)), mask.sum((1, 2)) - 1]",
    "mean": MEAN.format(states=STATES),
    "first_last_mean": MEAN.format(states="(output.hidden_states[1] + output.hidden_states[-1]) / 2"),
    "top2_mean": MEAN.format(states="(output.hidden_states[-2] + output.hidden_states[-1]) / 2"),
}


def data_files(config: TrainConfig, facts: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Role, file name, rows and SHA-256 of the file; that of the rows of a hub data set, of the vectors of a teacher.

    Args:
        config: names the files.
        facts: of `resume.data_facts`.
    """
    rows, files = [], config.data.files() | {"teacher": ", ".join(config.teacher.name)}
    for role, known in facts.items():
        name = files[role]
        file = Path(name)
        digest = (
            sha256_of(file)
            if file.is_file()
            else f"{known['fingerprint']} (of its {'vectors' if role == 'teacher' else 'rows'})"
        )
        count = f"{known['rows']:,}" if "rows" in known else ""
        rows.append([role, file.name if file.exists() else name, count, digest])
    return rows


def model_card(report: Mapping[str, Any], config: TrainConfig, encoder: SentenceEncoder) -> str:
    """The card as text.

    Args:
        report: what report.json holds.
        config: of the run.
        encoder: the one in best/; its settings decide the lines for the three libraries.
    """
    base = config.model.name
    front: dict[str, Any] = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}
    front["tags"] = TAGS
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) and not Path(base).exists():
        front["base_model"] = base
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {Path(config.output_dir).name}",
        f"A sentence encoder: texts to vectors of {encoder.dimension} dimensions, compared by cosine. It was trained "
        f"from `{Path(base).name if Path(base).exists() else base}` by contrastive learning (SimCSE, Gao, Yao and "
        f"Chen, EMNLP 2021); it reads {encoder.max_length} tokens of a text and pools them by `{encoder.pooling}`.",
        *usage(str(report["model"]), encoder),
        markdown(Table(["task", "measure", "n", "before", "after", "95 % interval"], score_rows(report), "Scores")),
        "The interval is that of a bootstrap over the pairs; it does not hold how far runs with other seeds differ.",
        *overlap_part(report),
        "\n".join(f"- {key}: {value}" for key, value in report["protocol"].items()),
        markdown(Table(["role", "file", "rows", "sha256"], data_files(config, report["data"]), "Data")),
        f"## Recipe\n\nWhat differs from the defaults of `simcse`:\n\n```yaml\n{recipe(config)}```",
        f"{report['training']['steps']:,} steps in all; `log.jsonl` of the run has each.",
        "## Versions\n\n" + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def overlap_part(report: Mapping[str, Any]) -> Iterator[str]:
    """How many test pairs stand in the training data, and the score on the others."""
    rows = [
        [task, *map(number, scores["overlap"].values()), number(scores["clean"].get("spearman"))]
        for task, scores in report["tasks"].items()
        if "overlap" in scores
    ]
    if rows:
        names = ["task", "pairs", "seen as a pair", "a sentence seen", "normalized", "or near", "Spearman on the rest"]
        yield markdown(Table(names, rows, "Test pairs in the training data"))


def with_name(card: str, name: str) -> str:
    """The card of a model that is loaded by another name, such as a hub id."""
    return re.sub(
        r'((?:from_pretrained|SentenceTransformer)\()"(?:[^"\\]|\\.)*"', lambda m: m[1] + json.dumps(name), card
    )


def usage(name: str, encoder: SentenceEncoder) -> Iterator[str]:
    """What to type in three libraries; each block gives the same vectors of length 1."""
    quoted = json.dumps(name)
    texts = 'texts = ["A man plays the guitar.", "Someone makes music on a stage."]'
    yield "## Use"
    yield block("from simcse import SentenceEncoder", texts,
                f"vectors = SentenceEncoder.from_pretrained({quoted}).encode(texts)")  # fmt: skip
    # sentence-transformers normalises first, and leaves out dimensions then
    again = "" if encoder.truncate_dim is None else ", normalize_embeddings=True"
    yield block(
        "from sentence_transformers import SentenceTransformer",
        texts,
        f"vectors = SentenceTransformer({quoted}).encode(texts{again})",
    )
    if any(encoder.resolve_prompt(role=role) != encoder.resolve_prompt() for role in ("query", "document")):
        yield (
            "To search, both encode queries by `encode_query(texts)` and documents by `encode_document(texts)`, "
            "each with its own prompt."
        )
    pooled = pooled_line(encoder)
    if pooled is None:
        yield "`transformers.AutoModel` leaves the head, or what to do with the prompt, to you; the two above have it."
        return
    shown = "texts" if not (prompt := encoder.resolve_prompt()) else f"[{json.dumps(prompt)} + text for text in texts]"
    kept = "" if encoder.truncate_dim is None else f"[:, :{encoder.truncate_dim}]"
    yield block(
        "import torch",
        "from transformers import AutoModel, AutoTokenizer",
        texts,
        f"tokenizer = AutoTokenizer.from_pretrained({quoted})",
        f'tokens = tokenizer({shown}, padding=True, padding_side="right", truncation=True,',
        f'                   max_length={encoder.max_length}, return_tensors="pt")',
        "with torch.no_grad():",
        f"    output = AutoModel.from_pretrained({quoted})(**tokens)",
        "mask = tokens.attention_mask[..., None]",
        f"vectors = torch.nn.functional.normalize(({pooled}){kept})",
    )


def pooled_line(encoder: SentenceEncoder) -> str | None:
    """The vector before normalisation out of `AutoModel`; None where that takes more than a line."""
    if encoder.resolve_prompt() and not encoder.include_prompt:
        return None
    if encoder.projection is None:
        return POOLED[encoder.pooling]
    kept = pooler_weights(encoder.backbone, encoder.projection if encoder.pooling == "cls" else None)
    return "output.pooler_output" if any(weight.any() for weight in kept.values()) else None


def block(*lines: str) -> str:
    """Python, for markdown."""
    return "```python\n" + "\n".join(lines) + "\n```"


def score_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """The rows of the summary, with the number of pairs or queries of each task, and Spearman's interval over them."""
    counts = {task: f"{scores['n']:,}" for task, scores in report["tasks"].items() if "n" in scores}
    intervals = {
        (task, NAMES["spearman"]): " to ".join(map(number, scores["intervals"]["spearman"]))
        for task, scores in report["tasks"].items()
        if "spearman" in scores.get("intervals", {})
    }
    if "average_interval" in report:
        intervals["average of 7", NAMES["spearman"]] = " to ".join(map(number, report["average_interval"]))
    return [
        [task, measure, counts.get(task, ""), *values, intervals.get((task, measure), "")]
        for task, measure, *values in run_rows(report)
    ]


def with_seeds(card: str, summary: Mapping[str, Any]) -> str:
    """The card of one seed's run, with mean and 95 % interval of each score over all seeds.

    Args:
        card: of `model_card`; what it says of seeds already is replaced.
        summary: report.json of the runs together.
    """
    rows = [
        [task, NAMES[key], f"{number(s['mean'])} ({number(s['low'])} to {number(s['high'])})"]
        for task, scores in summary["tasks"].items()
        for key, s in scores.items()
        if key in NAMES
    ]
    card = re.sub(r"\n## Over \d+ seeds\n.*?(?=\n## Data\n)", "", card, flags=re.DOTALL)
    if not rows:
        return card
    table = Table(["task", "measure", "mean (95 % interval)"], rows, f"Over {len(summary['seeds'])} seeds")
    return card.replace("\n## Data\n", f"\n{markdown(table)}\n\n## Data\n", 1)


def recipe(config: TrainConfig) -> str:
    """The options that are not the defaults, as YAML for --config; of files and folders the last part of the name."""

    def changed(now: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for key, value in now.items():
            if isinstance(value, dict) and key in default and isinstance(default[key], dict) and default[key]:
                value = changed(value, default[key]) or default[key]
            if value != default.get(key):
                found[key] = Path(value).name if isinstance(value, str) and Path(value).exists() else value
        return found

    options = config.as_dict()
    for own in ("output_dir", "resume", "seeds", "trackers"):
        options.pop(own)
    return yaml.safe_dump(changed(options, TrainConfig().as_dict()), sort_keys=False)
