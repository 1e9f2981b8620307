"""The only file that turns a config into objects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from simcse.data.augment import Augment, build_augment, read_synonyms
from simcse.data.collate import Batches
from simcse.data.fetch import check_fetched
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
from simcse.training.config import DataConfig, TrainConfig
from simcse.training.distributed import first_process_first, local_world, rank, world
from simcse.training.launch import check_all_started
from simcse.training.loss import ContrastiveLoss
from simcse.training.model import ContrastiveModel
from simcse.training.momentum import MomentumQueue
from simcse.training.resume import data_facts
from simcse.training.run_dir import RunDir
from simcse.training.trainer import Schedule, Trainer, weight_groups
from simcse.training.watch import check_data, check_dropout

__all__ = ["build_accelerator", "build_evaluator", "build_loss", "build_model", "build_trainer"]

ROLES = {
    "anchor": "query",
    "positive": "document",
    "hard_negative": "document",
}  # a text has none, but may have a prompt
MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Processes, device, precision, trackers; and all cores of this machine, shared between its processes.

    Raises:
        ConfigError: the batch does not divide by the processes, or a precision or tracker is not available here.
    """
    if config.data.train == "":
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


def read_data(config: TrainConfig) -> Any:
    """The rows of the training file, a `datasets.Dataset`; nothing here needs a model.

    Raises:
        DataError, ConfigError: the file is wrong, or does not fit the options.
    """
    rows = read_training(config.data.train, columns=config.data.columns, blank_lines=config.data.blank_lines)
    check_data(config, build_loss(config), rows)
    return rows


def build_batches(config: TrainConfig, encoder: SentenceEncoder, device: torch.device, rows: Any = None) -> Batches:
    """The training file, shared out; raises as `read_data`, which gives the rows."""
    criterion = build_loss(config)
    rows = read_data(config) if rows is None else rows
    prompts = [encoder.resolve_prompt(role=ROLES.get(column)) for column in rows.column_names]
    return Batches(
        rows,
        [encoder.tokenize(config.max_length, prompt) for prompt in prompts],
        batch_size=config.batch_size,
        seed=config.seed,
        rank=rank(),
        world=world(),
        device=device,
        with_counts=criterion.objective.needs_counts,
        augment=build_augmentation(config.data, encoder),
    )


def build_augmentation(data: DataConfig, encoder: SentenceEncoder) -> Augment | None:
    """What changes positives, or None."""
    if data.augment == "none":
        return None
    mask_token = encoder.tokenizer.mask_token
    synonyms = read_synonyms(data.synonyms) if data.synonyms else None
    return build_augment(data.augment, rate=data.augment_rate, mask_token=mask_token, synonyms=synonyms)


def build_loss(config: TrainConfig) -> ContrastiveLoss:
    """Candidates, then the objective.

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
        source=config.data.train,
    )


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
    criterion = build_loss(config)  # wrong options and files before the weights are read
    check_fetched({f"data.{name}": getattr(config.data, name) for name in ("train", "dev", "test")})
    rows, evaluator = read_data(config), build_evaluator(config.data)
    if config.data.test:
        read_tasks(SEVEN, config.data.test)  # measured when the run is over, which is late to learn that one is missing
    model = build_model(config, run)
    batches = build_batches(config, model.encoder, accelerator.device, rows)
    data = data_facts(config.data, batches.dataset)
    run.check_data(data, asdict(config.data))
    model.to(accelerator.device)
    if batches.repeats_texts and not (config.model.fixed_dropout_mask or config.model.two_encoders):
        check_dropout(model.train(), batches.batch_of(0))
    if config.model.queue_size:
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
