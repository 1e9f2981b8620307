"""The only file that turns a config into objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from simcse.data.augment import Augment, build_augment, read_synonyms
from simcse.data.collate import SCORE, Batches
from simcse.data.fetch import check_fetched
from simcse.data.groups import read_groups, read_scored_training
from simcse.data.mixture import Mixture
from simcse.data.pairs import read_scored_pairs
from simcse.data.readers import read_texts, read_training
from simcse.encoder.backends.allocator import keep_freed_memory
from simcse.encoder.backends.select import bf16_pays
from simcse.encoder.device import pick_device
from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError, DataError, did_you_mean
from simcse.evaluation.evaluators import Evaluator, RetrievalEvaluator, ScoredPairsEvaluator
from simcse.evaluation.sts import SEVEN
from simcse.evaluation.suite import read_tasks
from simcse.objectives import build_candidates, build_objective
from simcse.objectives.scored import SCORED
from simcse.training.config import DataConfig, SourceConfig, TrainConfig
from simcse.training.distributed import first_process_first, local_world, rank, world
from simcse.training.launch import check_all_started
from simcse.training.loss import (
    ContrastiveLoss,
    Criterion,
    DistillationLoss,
    MatryoshkaLoss,
    MixedLoss,
    ScoredPairsLoss,
)
from simcse.training.model import ContrastiveModel
from simcse.training.momentum import MomentumQueue
from simcse.training.resume import data_facts
from simcse.training.run_dir import RunDir
from simcse.training.teacher import FITTED, fitted_map, teacher_facts, teacher_vectors
from simcse.training.trainer import Schedule, Trainer, weight_groups
from simcse.training.watch import check_data, check_dropout, check_prompts

__all__ = [
    "build_accelerator",
    "build_criterion",
    "build_evaluator",
    "build_loss",
    "build_model",
    "build_trainer",
    "read_source",
]

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Processes, device, precision, trackers; and all cores of this machine, shared between its processes.

    Raises:
        ConfigError: the batch does not divide by the processes, or a precision or tracker is not available here.
    """
    if not (config.data.train or config.data.sources):
        raise ConfigError("data.train is empty: name a training file (txt, csv, tsv, jsonl, parquet) or a hub id")
    known = {str(name) for name in get_available_trackers()}
    for name in config.trackers:
        if name not in known:
            raise ConfigError(
                f"trackers: {name!r} is not installed or unknown{did_you_mean(name, known)}; "
                f"here are: {', '.join(sorted(known)) or 'none'}; pip install {name}"
            )
    if config.precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError("precision=fp16 needs an accelerator and there is none here; say auto, bf16 or fp32")
    # not from accelerate's state: whoever asks that first decides on processes and devices, too
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    device, precision = pick_device("cpu" if on_cpu else "auto"), config.precision
    if precision == "auto":
        precision = "bf16" if bf16_pays(device) else "fp32"
    AcceleratorState._reset_state()  # a second run in this process may ask for another precision
    accelerator = Accelerator(
        cpu=device.type == "cpu",  # without an accelerator torchrun's processes do not find each other by default
        mixed_precision=MIXED[precision],
        log_with=config.trackers or None,
        project_dir=config.output_dir,
    )
    check_all_started(world())
    if config.batch_size % world():
        raise ConfigError(
            f"batch_size={config.batch_size} does not divide by {world()} processes; the next that does is "
            f"{-(-config.batch_size // world()) * world()}"
        )
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if accelerator.device.type == "cpu" and {"ACCELERATE_DYNAMO_BACKEND", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        # under a launcher, which gives a process one thread by default
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world()))
    return accelerator


def build_model(config: TrainConfig, run: RunDir | None = None) -> ContrastiveModel:
    """The encoder of the config, or of the state that the run goes on from, with its head."""
    torch.manual_seed(config.seed)
    start = run.start if run else None
    encoder = SentenceEncoder.from_pretrained(
        start or config.model.name,
        pooling=config.model.pooling,
        dropout=config.model.dropout,
        revision=config.model.revision,
        device="cpu",
        dtype="fp32",
    )
    if config.max_length > encoder.backbone_limit:
        raise ConfigError(
            f"max_length is {config.max_length}: {config.model.name} accepts at most {encoder.backbone_limit} tokens"
        )
    set_prompts(encoder, config.data.prompts)
    options = config.model
    return ContrastiveModel(
        encoder, options.projection, fixed_dropout_mask=options.fixed_dropout_mask, two_encoders=options.two_encoders
    )


def set_prompts(encoder: SentenceEncoder, prompts: Mapping[str, str]) -> None:
    """Give an encoder the prompts that it is trained with; that of single texts is then its default prompt."""
    encoder.prompts |= prompts
    if "text" in prompts:
        encoder.default_prompt_name = "text"


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


def build_loss(config: TrainConfig, source: SourceConfig | None = None) -> ContrastiveLoss:
    """Candidates, then the objective; of a source, or of the first.

    Raises:
        ConfigError: an unknown candidate set, objective or argument.
    """
    return ContrastiveLoss(
        build_candidates(
            config.candidates,
            temperature=config.temperature,
            hard_negative_weight=config.hard_negative_weight,
            similarity=config.similarity,
        ),
        build_objective(config.objective, **config.objective_args),
        num_negatives=config.num_negatives,
        mask_equal_texts=config.data.mask_equal_texts,
        mask_margin=config.teacher.mask_margin,
        source=(source or config.data.all_sources()[0]).train,
    )


def build_criterion(config: TrainConfig, dimension: int) -> Criterion:
    """The loss of a run: one source's, or those of several, with a teacher's.

    Args:
        config: the options.
        dimension: D of the views in the student's own space.

    Raises:
        ConfigError: as `build_loss`.
    """
    sources = config.data.all_sources()
    losses: list[ContrastiveLoss | ScoredPairsLoss | None] = []
    for source in sources:
        loss = source.loss or ("cosent" if source.rows == "scored" else "contrastive")
        if loss in SCORED:
            losses.append(ScoredPairsLoss(SCORED[loss], config.temperature))
        else:
            losses.append(None if loss == "none" else build_loss(config, source))
    teacher = config.teacher
    learns = bool(teacher.name) and teacher.loss != "none"
    if len(losses) == 1 and not learns and isinstance(losses[0], ContrastiveLoss):
        return within(config, losses[0], dimension)
    distillation = DistillationLoss(
        teacher.loss, build_loss(config).candidates, teacher.temperature, [source.train for source in sources]
    )
    weights = [source.weight for source in sources]
    mixed = MixedLoss(losses, weights, distillation if learns else None, teacher.weight, dimension)
    return within(config, mixed, dimension)


def within(config: TrainConfig, criterion: Criterion, dimension: int) -> Criterion:
    """The loss, of the first dimensions alone, too, where the config asks for it."""
    if not config.matryoshka:
        return criterion
    if (most := max(config.matryoshka)) > dimension:
        raise ConfigError(
            f"matryoshka: found {most} dimensions, but the vectors of {config.model.name} have {dimension}"
        )
    return MatryoshkaLoss(criterion, config.matryoshka)


def add_map(config: TrainConfig, model: ContrastiveModel, batches: Mixture, resumed: bool) -> None:
    """Give the model a linear map to the teacher's space, where its vectors are to be those of the teacher and have
    another dimension; it starts as the best one for the first rows, and a resumed run reads it from its state."""
    teacher = [vectors for source in batches.sources for vectors in source.teacher[:1]]
    if config.teacher.loss not in ("l2", "cosine") or not teacher or teacher[0].dimension == model.dimension:
        return
    if resumed:
        model.map = torch.nn.Linear(model.dimension, teacher[0].dimension, bias=False)
        return
    each = FITTED // len(teacher)
    texts, vectors = [], []
    for source, known in zip(batches.sources, teacher, strict=True):
        some = source.dataset[:each][source.text_columns[0]]
        texts += some
        vectors += [known[row] for row in range(len(some))]
    model.map = fitted_map(model.encoder, texts, np.stack(vectors))


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


def build_trainer(config: TrainConfig, accelerator: Accelerator) -> Trainer:
    """Everything, checked as far as possible before anything is written; the run folder is opened last."""
    writes = accelerator.is_main_process
    run = first_process_first(lambda: RunDir(config.output_dir, config.as_dict(), config.resume, writes=writes))
    try:
        return _build_trainer(config, accelerator, run)
    except BaseException:
        run.close()
        raise


def _build_trainer(config: TrainConfig, accelerator: Accelerator, run: RunDir) -> Trainer:
    build_loss(config)  # wrong options and files before the weights are read
    files = {"dev": config.data.dev, "test": config.data.test} | config.data.files()
    check_fetched({f"data.{name}": file for name, file in files.items()})
    rows, evaluator = read_data(config), build_evaluator(config.data)
    if config.data.test:
        read_tasks(SEVEN, config.data.test)  # measured when the run is over, which is late to learn that one is missing
    model = build_model(config, run)
    batches = build_batches(config, model.encoder, accelerator.device, rows)
    taught = [source.teacher for source in batches.sources if source.teacher]
    data = data_facts(config.data, rows) | teacher_facts(taught)
    run.check_data(data, config.data.files() | {"teacher": ", ".join(config.teacher.name)})
    add_map(config, model, batches, resumed=run.start is not None)
    model.to(accelerator.device)
    criterion = build_criterion(config, model.dimension)
    repeats = next((source for source in batches.sources if source.repeats_texts), None)
    if repeats and not (config.model.fixed_dropout_mask or config.model.two_encoders):
        check_dropout(model.train(), repeats.batch_of(0))
    if config.model.queue_size and isinstance(criterion, ContrastiveLoss):
        criterion = replace(criterion, queue=MomentumQueue(model, config.model.queue_size, config.model.ema_decay))
    optimizer = torch.optim.AdamW(weight_groups(model, config.optim.weight_decay), lr=config.optim.lr, fused=True)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    schedule = Schedule(
        steps=config.max_steps or batches.per_epoch * config.epochs,
        lr=config.optim.lr,
        warmup=config.optim.warmup,
        clip=config.optim.clip,
        micro_batch_size=config.micro_batch_size,
        eval_every=config.eval_every,
        save_every=config.save_every,
        log_every=config.log_every,
        seed=config.seed,
    )
    trainer = Trainer(accelerator, prepared, optimizer, batches, criterion, evaluator, run, schedule)
    run.open(data)
    if run.start is not None:
        trainer.resume()
    return trainer
