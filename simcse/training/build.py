"""A config made into the objects of a run; the only place that does so, with `build_data.py` and `build_loss.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from simcse.data.fetch import check_fetched
from simcse.data.mixture import Mixture
from simcse.encoder.backends.allocator import keep_freed_memory
from simcse.encoder.backends.select import bf16_pays, slower_to_train
from simcse.encoder.device import pick_device
from simcse.encoder.model import SentenceEncoder
from simcse.errors import ConfigError, did_you_mean
from simcse.evaluation.sts import SEVEN
from simcse.evaluation.suite import read_tasks
from simcse.training.average import WeightAverage
from simcse.training.build_data import build_batches, build_evaluator, read_data
from simcse.training.build_loss import build_criterion, build_loss
from simcse.training.config import TrainConfig
from simcse.training.distributed import first_process_first, local_world, world
from simcse.training.launch import check_all_started
from simcse.training.loss import ContrastiveLoss
from simcse.training.model import ContrastiveModel
from simcse.training.momentum import MomentumQueue
from simcse.training.resume import data_facts
from simcse.training.run_dir import RunDir
from simcse.training.teacher import FITTED, fitted_map, teacher_facts
from simcse.training.trainer import Schedule, Trainer, weight_groups
from simcse.training.watch import check_dropout

__all__ = ["build_accelerator", "build_model", "build_trainer"]

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
    in_bf16 = config.precision == "bf16" and accelerator.device.type == "cpu"
    if in_bf16 and (reason := slower_to_train(model.encoder.backbone, torch.bfloat16)) is not None:
        raise ConfigError(f"precision is bf16, but {reason}; take precision auto")
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
    average = WeightAverage(model.encoder, config.optim.ema_decay) if config.optim.ema_decay else None
    trainer = Trainer(accelerator, prepared, optimizer, batches, criterion, evaluator, run, schedule, average)
    run.open(data)
    if run.start is not None:
        trainer.resume()
    return trainer
