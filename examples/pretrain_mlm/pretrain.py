"""A small BERT from nothing but sentences, by masked language modelling: the start that the paper's recipes need.

    python examples/pretrain_mlm/pretrain.py --data sentences.txt --output_dir runs/mlm

Stop it at any moment and go on by --resume auto. README.md says what it gives and how long it takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from corpus import Sentences, learn_vocabulary, read_sentences
from masking import Masked, Pieces, mask_words
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

from simcse.console import Parser, run
from simcse.display.progress import training_bar
from simcse.encoder.backends.cpu_training.forward import training_states
from simcse.encoder.backends.select import bf16_pays, slower_to_train
from simcse.encoder.quiet import quiet_transformers
from simcse.errors import ConfigError
from simcse.files import sha256_of
from simcse.tokens.batch import TokenBatch
from simcse.training.interrupt import Interrupted, StopSignals
from simcse.training.run_dir import RunDir
from simcse.training.trainer import Schedule, rate_at, seed_step, weight_groups


@dataclass
class PretrainConfig:
    """Pretrain a BERT by masked language modelling."""

    data: str = ""
    """Text file, a sentence a line; .gz as well."""

    output_dir: str = "runs/mlm"
    """Run folder: best/ is the model in float16, last/ what a stopped run goes on from, log.jsonl the curves."""

    layers: int = 4
    """Of the encoder."""

    width: int = 256
    """D of the token states; 64 of them make a head, and the feed-forward layers are four times as wide."""

    vocabulary: int = 8192
    """WordPiece pieces, learned from the sentences."""

    max_length: int = 64
    """Pieces of a sentence, special ones included; the rest is cut."""

    mask_share: float = 0.15
    """Of the words, that are to be guessed (Devlin et al. 2019)."""

    batch_size: int = 128
    """Sentences a step."""

    max_steps: int = 6_000
    """Steps in all."""

    lr: float = 2e-3
    """Peak learning rate; falls to 0 on a line behind the warm-up."""

    warmup: float = 0.05
    """Share of the steps until the peak."""

    weight_decay: float = 0.01
    """Of matrices."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for the rest."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the CPU computes in it faster, else fp32. bf16 is refused where it is slower."""

    held_out: int = 1000
    """Sentences, the first ones, on which loss and accuracy are measured, always with the same words masked."""

    eval_every: int = 500
    """Steps."""

    save_every: int = 500
    """Steps."""

    log_every: int = 50
    """Steps."""

    seed: int = 42
    """Of weights, order, masks and dropout."""

    resume: Literal["never", "auto"] = "never"
    """auto: go on from output_dir/last, if it is there."""

    def __post_init__(self) -> None:
        for name in ("layers", "batch_size", "max_steps", "held_out", "eval_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.width % 64 or self.width < 64:
            raise ConfigError(f"width is {self.width}, expected a multiple of 64: a head has 64 of them")
        if not 0 < self.mask_share < 1:
            raise ConfigError(f"mask_share is {self.mask_share}, expected more than 0 and less than 1")
        if self.max_length < 3:
            raise ConfigError(f"max_length is {self.max_length}, expected at least 3: [CLS], a piece, [SEP]")

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.max_steps, self.lr, self.warmup)


def new_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> BertForMaskedLM:
    """With weights drawn as BERT's authors do."""
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=config.width, num_hidden_layers=config.layers,
        num_attention_heads=config.width // 64, intermediate_size=4 * config.width,
        max_position_embeddings=config.max_length, type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return BertForMaskedLM(shape)


def make_optimizers(model: BertForMaskedLM, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """One, or Muon and one for what it does not take."""
    groups = weight_groups(model, config.weight_decay)
    adamw = partial(torch.optim.AdamW, lr=config.lr, betas=(0.9, 0.98), fused=True)
    if config.optimizer == "adamw":
        return [adamw(groups)]
    inner = [weight for weight in model.bert.encoder.parameters() if weight.ndim == 2]
    ids = set(map(id, inner))
    rest = [{**group, "params": [w for w in group["params"] if id(w) not in ids]} for group in groups]
    # the rate of AdamW, as the updates are of the same size (Liu et al. 2025)
    muon = torch.optim.Muon(inner, config.lr, config.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw(rest)]


def guess(model: BertForMaskedLM, batch: TokenBatch, masked: Masked) -> tuple[Tensor, Tensor]:
    """Mean loss of the M masked pieces, and the share that was guessed right."""
    [hidden] = training_states(model.bert, TokenBatch(masked.ids, batch.lengths), [-1])  # (T, D)
    logits = model.cls(hidden[masked.places]).float()  # (M, V)
    right = (logits.detach().argmax(dim=1) == masked.targets).float().mean()
    return F.cross_entropy(logits, masked.targets), right


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Autocast, where it is faster; for one step, as it keeps what it cast of weights and does not see them change."""
    lower = precision == "bf16" or (precision == "auto" and bf16_pays(torch.device("cpu")))
    with torch.autocast("cpu", torch.bfloat16, enabled=lower):
        yield


class Pretraining:
    """A run: sentences, model and optimizers, and how far they are."""

    def __init__(self, config: PretrainConfig, run_dir: RunDir) -> None:
        """Read the sentences; begin, or take up what the folder has.

        Raises:
            ConfigError, DataError, ModelError: wrong options, files, or a damaged state.
        """
        self.config, self.run, self.step = config, run_dir, 0
        texts = read_sentences(config.data, config.held_out + config.batch_size)
        facts = {"train": {"rows": len(texts), "fingerprint": sha256_of(Path(config.data))}}
        run_dir.check_data(facts, {"train": config.data})
        torch.manual_seed(config.seed)
        if run_dir.start is None:
            self.tokenizer = learn_vocabulary(texts[config.held_out :], config.vocabulary, config.max_length)
            self.model = new_model(config, self.tokenizer)
        else:
            self.tokenizer = AutoTokenizer.from_pretrained(run_dir.start)
            with quiet_transformers():
                self.model = BertForMaskedLM.from_pretrained(run_dir.start, dtype=torch.float32)
        if config.precision == "bf16" and (reason := slower_to_train(self.model.bert, torch.bfloat16)):
            raise ConfigError(f"precision is bf16, but {reason}; take precision auto")
        self.optimizers = make_optimizers(self.model, config)
        if run_dir.start is not None:
            state = run_dir.load_state()
            self.step = state["step"]
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        self.pieces = Pieces.of(self.tokenizer)
        self.held_out = Sentences(texts[: config.held_out], self.tokenizer, config.max_length)
        self.sentences = Sentences(texts[config.held_out :], self.tokenizer, config.max_length)
        run_dir.open(facts)

    def train(self, signals: StopSignals) -> None:
        """Run to the last step.

        Raises:
            Interrupted: told to stop; last/ has the step at hand.
        """
        config, seen, since = self.config, [], time.perf_counter()
        self.model.train()
        with training_bar(config.max_steps, self.step, True) as show:
            for batch in self.sentences.batches(self.step, config.max_steps, config.batch_size, config.seed):
                self.step += 1
                seen.append(self._learn(batch))
                record: dict[str, float] = {"step": self.step}
                if self._is_due(config.log_every):
                    loss, right = torch.stack(seen).mean(0).tolist()
                    rows = len(seen) * config.batch_size / (time.perf_counter() - since)
                    record |= {"loss": loss, "accuracy": 100 * right, "lr": rate_at(self.step, config.schedule)}
                    record["rows_per_second"] = round(rows, 1)
                    self.run.log(record)
                    seen, since = [], time.perf_counter()
                show(record)
                if self._is_due(config.eval_every):
                    self.run.log({"step": self.step, "dev": self.measure()})
                if self._is_due(config.save_every) or signals.number:
                    self._save()
                if signals.number:
                    said = f"step {self.step} of {config.max_steps} is done, and saved in {self.run.last}"
                    raise Interrupted(signals.number, said)

    def measure(self) -> dict[str, float]:
        """Accuracy (percent) and loss on the sentences held out."""
        self.model.eval()
        found, size = [], self.config.batch_size
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad(), computing_in(self.config.precision):
            for start in range(0, len(self.held_out), size):
                batch = self.held_out.batch(np.arange(start, min(start + size, len(self.held_out))))
                masked = mask_words(batch.ids, self.pieces, self.config.mask_share, generator)
                found.append(torch.stack([*guess(self.model, batch, masked), torch.tensor(1.0)]) * len(masked.places))
        self.model.train()
        loss, right, pieces = torch.stack(found).sum(0).tolist()
        return {"accuracy": 100 * right / pieces, "loss": loss / pieces}

    def finish(self) -> dict[str, float]:
        """Write best/ in float16; loss and accuracy of it on the sentences held out."""
        found = self.measure()
        self.model.half()
        self.run.save_best(self._write)
        return found

    def _learn(self, batch: TokenBatch) -> Tensor:
        """One step -> (2,) loss and share of right guesses."""
        seed_step(self.config.seed, self.step)
        masked = mask_words(batch.ids, self.pieces, self.config.mask_share)
        with computing_in(self.config.precision):
            loss, right = guess(self.model, batch, masked)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(self.step, self.config.schedule)
            optimizer.step()
            optimizer.zero_grad()
        return torch.stack([loss.detach(), right])

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.max_steps

    def _save(self) -> None:
        self.run.save_last(self._write, {"step": self.step, "optimizers": [o.state_dict() for o in self.optimizers]})

    def _write(self, folder: Path) -> None:
        with quiet_transformers():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Train to the end -> loss and accuracy on the sentences held out, file, megabytes and SHA-256.

    Raises:
        ConfigError, DataError, ModelError: wrong options, files, or a damaged state.
        Interrupted: told to stop.
    """
    run_dir = RunDir(config.output_dir, asdict(config), config.resume)
    try:
        with StopSignals(tells=True) as signals:
            work = Pretraining(config, run_dir)
            work.train(signals)
            found = work.finish()
    finally:
        run_dir.close()
    file = run_dir.best / "model.safetensors"
    return {**found, "file": str(file), "megabytes": file.stat().st_size / 1e6, "sha256": sha256_of(file)}


def main(argv: list[str]) -> None:
    parser = Parser(description=PretrainConfig.__doc__)
    parser.add_class_arguments(PretrainConfig, as_group=False)
    found = pretrain(PretrainConfig(**vars(parser.parse_args(argv))))
    print(f"held-out loss {found['loss']:.3f}, {found['accuracy']:.1f} % of the masked pieces guessed right")
    print(f"{found['file']}: {found['megabytes']:.1f} MB, SHA-256 {found['sha256']}")


if __name__ == "__main__":
    raise SystemExit(run(main))
