"""The files of a config as rows, batches and what a run is evaluated by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from simcse.data.augment import Augment, build_augment, read_synonyms
from simcse.data.collate import SCORE, Batches
from simcse.data.groups import read_groups, read_scored_training
from simcse.data.mixture import Mixture
from simcse.data.pairs import read_scored_pairs
from simcse.data.readers import read_texts, read_training
from simcse.encoder.model import SentenceEncoder
from simcse.errors import DataError
from simcse.evaluation.evaluators import Evaluator, RetrievalEvaluator, ScoredPairsEvaluator
from simcse.training.build_loss import build_loss
from simcse.training.config import DataConfig, SourceConfig, TrainConfig
from simcse.training.distributed import first_process_first, rank, world
from simcse.training.teacher import teacher_vectors
from simcse.training.watch import check_data, check_prompts

__all__ = ["build_batches", "build_evaluator", "read_data", "read_source"]


def read_data(config: TrainConfig) -> list[Any]:
    """The rows of each source, a `datasets.Dataset`; nothing here needs a model.

    Raises:
        DataError, ConfigError: a file is wrong, or does not fit the options.
    """
    found = []
    for source in config.data.all_sources():
        found.append(read_source(source, config.data.blank_lines))
        check_data(config, source, build_loss(config, source), found[-1])
    check_prompts(config, found)
    return found


def read_source(source: SourceConfig, blank_lines: Literal["error", "skip"]) -> Any:
    """The rows of a source, a `datasets.Dataset`.

    Raises:
        DataError: the file is wrong.
    """
    if source.rows == "any_two":
        return read_groups(source.train, columns=source.columns)
    if source.rows == "scored":
        return read_scored_training(source.train, columns=source.columns)
    return read_training(source.train, columns=source.columns, blank_lines=blank_lines)


def build_batches(config: TrainConfig, encoder: SentenceEncoder, device: torch.device, rows: Any = None) -> Mixture:
    """The training files, shared out; raises as `read_data`, which gives the rows."""
    sources, rows = config.data.all_sources(), read_data(config) if rows is None else rows
    teacher = first_process_first(lambda: teacher_vectors(config.teacher, rows)) if config.teacher.name else None
    batches = []
    for number, (source, own) in enumerate(zip(sources, rows, strict=True)):
        names = [name for name in own.column_names if name != SCORE]
        plain = source.rows != "roles" or len(names) == 1  # a text has no role, but may have a prompt
        roles = [None if plain else "query" if name == "anchor" else "document" for name in names]
        prompts = [encoder.resolve_prompt(role=role) for role in roles]
        batches.append(Batches(
            own,
            [encoder.tokenize(config.max_length, prompt) for prompt in prompts],
            batch_size=config.batch_size,
            seed=config.seed,
            rank=rank(),
            world=world(),
            device=device,
            with_counts=build_loss(config, source).objective.needs_counts,
            augment=build_augmentation(config.data, encoder),
            any_two=source.rows == "any_two",
            once=source.loss == "none",
            teacher=() if teacher is None else teacher[number],
        ))  # fmt: skip
    shares = [source.share for source in sources if source.share is not None]
    return Mixture(batches, shares or None)


def build_augmentation(data: DataConfig, encoder: SentenceEncoder) -> Augment | None:
    """What changes positives, or None."""
    if data.augment == "none":
        return None
    mask_token = encoder.tokenizer.mask_token
    synonyms = read_synonyms(data.synonyms) if data.synonyms else None
    return build_augment(data.augment, rate=data.augment_rate, mask_token=mask_token, synonyms=synonyms)


def build_evaluator(data: DataConfig) -> Evaluator | None:
    """Scored pairs, or retrieval where there is a corpus; None without a dev file."""
    if data.dev is None:
        return None
    if data.dev_corpus is None:
        return ScoredPairsEvaluator(read_scored_pairs(data.dev))
    pairs = read_training(data.dev)
    if pairs.column_names != ["anchor", "positive"]:
        raise DataError(
            f"{data.dev}: found {len(pairs.column_names)} columns, expected 2 (query, document) with data.dev_corpus"
        )
    corpus = list(read_texts(data.dev_corpus))
    return RetrievalEvaluator(pairs["anchor"][:], pairs["positive"][:], corpus, Path(data.dev).name)
