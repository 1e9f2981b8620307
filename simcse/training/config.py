"""Everything that a training run can be configured by. Importing this costs nothing: no torch, no transformers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from simcse.errors import ConfigError, did_you_mean
from simcse.training.fields import checked_fields, part_of

__all__ = ["DataConfig", "ModelConfig", "OptimConfig", "SourceConfig", "TeacherConfig", "TrainConfig"]

ROLES = ("text", "query", "document")  # of training texts


@checked_fields
@dataclass
class ModelConfig:
    """The encoder."""

    name: str = "bert-base-uncased"
    """Folder, hub id, or package:NAME for a Python package that carries a model."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""

    pooling: Literal["cls", "mean", "last_token", "first_last_mean", "top2_mean"] | None = None
    """How token states become one vector; null: what the checkpoint says, else cls (paper, table 6)."""

    projection: Literal["none", "train", "always"] = "train"
    """Linear + tanh head: none; in training only, dropped at save (paper: unsupervised); always, saved (supervised)."""

    dropout: float | None = None
    """Rate put in place of every dropout rate of the backbone, in [0, 1); null keeps the checkpoint's (0.1 in BERT)."""

    two_encoders: bool = False
    """Two encoders with weights of their own: the first, for anchors, is saved (paper, table 2)."""

    fixed_dropout_mask: bool = False
    """One dropout mask for both views of a text, which are then equal: an ablation (paper, table 3: 43.6 for 82.5)."""

    queue_size: int = 0
    """Past keys kept as further negatives, by an exponential moving average (EMA) of the model (ESimCSE: 2.5 x
    batch_size); 0: none."""

    ema_decay: float = 0.995
    """EMA decay of that average at each step, in [0, 1) (ESimCSE, section 3.2)."""


@checked_fields
@dataclass
class SourceConfig:
    """One of several sources of training rows; each batch is of one source."""

    train: str = ""
    """Training file or hub id."""

    columns: list[str] | None = None
    """Names of the columns to read, in this order; null: all of the file's."""

    rows: Literal["roles", "any_two", "scored"] = "roles"
    """What a row is: roles, as of data.train; any_two, columns of one meaning, such as captions of an image, of which
    two are drawn anew each time; scored, two sentences and their similarity."""

    loss: Literal["contrastive", "cosent", "angle", "cosine_mse", "none"] | None = None
    """What its rows are trained by: contrastive (default), of scored rows cosent (default), angle or cosine_mse; none:
    by the teacher alone."""

    share: float | None = None
    """Share of the steps, in any unit, given for all sources or none; null: by the numbers of rows."""

    weight: float = 1.0
    """Of its loss; that of the teacher is not weighted by it."""


@checked_fields
@dataclass
class DataConfig:
    """The files."""

    train: str = ""
    """Training file or hub id: 1 column (dropout positives), 2 (anchor, positive), 3 and more (and hard negatives)."""

    columns: list[str] | None = None
    """Names of the columns to read, in this order, behind the second hard negatives; null: all of the file's 1 to 3."""

    sources: list[SourceConfig] = field(default_factory=list)
    """Several training files in place of train, each with columns, loss and share of the steps of its own; helps where
    one kind of text is not all that the encoder meets."""

    prompts: dict[str, str] = field(default_factory=dict)
    """Texts put before those of each role and saved as its prompts: {query: ..., document: ...} for pairs (anchors are
    queries, positives and hard negatives documents), {text: ...} for 1 column; others are as in the checkpoint."""

    blank_lines: Literal["error", "skip"] = "error"
    """What to do with a row that has an empty field."""

    dev: str | None = None
    """File to evaluate by: (a, b, score), such as STS-B's sts-dev.csv; (query, document) with dev_corpus."""

    dev_corpus: str | None = None
    """Documents among which each query of dev must find its own; with it the score is MRR@10 instead of Spearman."""

    test: str | None = None
    """SentEval folder; with it the run ends with STS12-16, STS-B and SICK-R of best/ in report.json."""

    augment: Literal["none", "crop", "delete", "delete_one", "mask", "synonym"] = "none"
    """What changes the text that is the positive of a 1-column file; none: dropout alone (paper, table 1)."""

    augment_rate: float = 0.1
    """Share of the words that it changes, in (0, 1) (paper: 0.1 to 0.3)."""

    synonyms: str | None = None
    """For augment synonym: file of a word and its synonyms a line, with tabs between."""

    mask_equal_texts: bool = True
    """Leave equal texts out of the denominator, found by a hash of the text: they are no negatives of each other."""

    def all_sources(self) -> list[SourceConfig]:
        """The sources; `train` is one."""
        return self.sources or [SourceConfig(self.train, self.columns)]

    def files(self) -> dict[str, str]:
        """Option -> file, folder or hub id, of those that are given."""
        found = {name: getattr(self, name) for name in ("train", "dev", "dev_corpus", "synonyms", "test")}
        found |= {f"sources[{number}]": source.train for number, source in enumerate(self.sources)}
        return {name: file for name, file in found.items() if file}


@checked_fields
@dataclass
class TeacherConfig:
    """Encoders to learn from, whose vectors of the training texts are computed once; helps where a stronger, slower one
    is at hand, best after it was tuned on the same data."""

    name: list[str] = field(default_factory=list)
    """Folders, hub ids or package:NAME; of several the cosines are averaged."""

    loss: Literal["kl", "margin_mse", "l2", "cosine", "none"] = "kl"
    """kl: the student's similarities within a batch follow the teacher's as a distribution; margin_mse: their
    differences do; l2, cosine: its vectors do, through a linear map where the dimensions differ (LEAF); none: the
    teacher is a guide alone."""

    weight: float = 1.0
    """Of that loss beside the sources' own."""

    temperature: float = 0.05
    """Divides the teacher's similarities in kl."""

    mask_margin: float | None = None
    """Mask negatives that the teacher finds closer to the anchor than its positive less this margin of the cosine: they
    may be right, too (GISTEmbed, Solatorio 2024; 0 there); null: none."""

    cache: str = "runs/teacher"
    """Folder for the teacher's vectors, which runs with the same teacher and texts share."""


@checked_fields
@dataclass
class OptimConfig:
    """AdamW with linear decay to 0."""

    lr: float = 3e-5
    """Peak learning rate (paper, appendix A: 1e-5 to 5e-5)."""

    weight_decay: float = 0.0
    """Decoupled weight decay, not on biases and LayerNorm weights (paper's scripts: 0)."""

    clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off (paper's scripts: 1.0)."""

    warmup: float = 0.0
    """Share of all steps over which the rate rises from 0, in [0, 1) (paper: none)."""

    ema_decay: float = 0.0
    """EMA decay of the weights' average at each step, in [0, 1); that average is evaluated, and kept in best/; 0: none
    (paper)."""


@checked_fields
@dataclass
class TrainConfig:
    """Train a sentence encoder by contrastive learning."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The encoder."""

    data: DataConfig = field(default_factory=DataConfig)
    """The files."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Encoders to learn from."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW with linear decay to 0."""

    output_dir: str = "runs/simcse"
    """Run folder: config.yaml, log.jsonl, report.json, best/ and last/."""

    batch_size: int = 64
    """Rows of a step over all processes together; must divide by their number (paper: 64 or 512)."""

    micro_batch_size: int | None = None
    """Rows in the encoder at a time, a process; saves memory, changes no gradient (GradCache); null: all."""

    epochs: int = 1
    """Passes over the training file (paper: 1 unsupervised, 3 supervised)."""

    max_steps: int | None = None
    """Stop after this many steps, and decay the rate over them; null: after the epochs."""

    max_length: int = 32
    """Tokens kept of each training text; evaluation and the saved encoder are not cut to it (paper: 32)."""

    candidates: str = "in_batch"
    """What an anchor is compared with: in_batch (InfoNCE), all_views (NT-Xent) or symmetric; docs/objectives.md."""

    objective: str = "softmax"
    """What the similarities are trained by: softmax or another member of the family; docs/objectives.md."""

    objective_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the objective, such as {smoothing: 0.1}."""

    similarity: Literal["cosine", "dot"] = "cosine"
    """Of two vectors (paper, table D.1: cosine; Contrastive Tension: dot, with temperature 1); losses of scored pairs
    and of a teacher compare by cosine all the same."""

    temperature: float = 0.05
    """Divides the similarities (paper, table D.1: 0.05)."""

    matryoshka: list[int] = field(default_factory=list)
    """Dimensions, such as [64, 128, 256, 384], whose first ones alone are trained to be a good vector, too (Kusupati et
    al. 2022): helps where vectors are to be stored short, by truncate_dim; empty: all dimensions alone."""

    num_negatives: int | None = None
    """Negatives of a row, drawn anew each step from those it has (Contrastive Tension: 7); null: all of them."""

    hard_negative_weight: float = 1.0
    """Alpha, the weight of an anchor's own hard negative in the denominator (paper, table D.2: 1)."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of activations; weights stay fp32. auto: bf16 where the device computes in it, else fp32 (paper:
    fp16). bf16 is refused on a CPU where a layer is slower in it."""

    eval_every: int = 125
    """Steps between evaluations on dev; best/ is the best of them (the authors' scripts: 125; the paper: 250)."""

    save_every: int = 500
    """Most steps between saves of last/, from which a run can be resumed; each evaluation and a signal save it, too."""

    log_every: int = 10
    """Steps between lines of log.jsonl."""

    resume: str = "never"
    """never: the run folder must be new; auto: go on from its last/ if there is one; or the path of a last/ folder."""

    seed: int = 42
    """Of dropout, head and order of rows (the authors' scripts: 42)."""

    seeds: int = 1
    """Runs with seeds seed, seed + 1, ...; more than one writes output_dir/seed-N and their mean and spread."""

    trackers: list[str] = field(default_factory=list)
    """accelerate's trackers to report to as well: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        """Check what can be checked without the files and the model; a dict stands for its fields."""
        self.model = part_of(ModelConfig, "model", self.model)
        self.data = part_of(DataConfig, "data", self.data)
        self.data.sources = [
            part_of(SourceConfig, f"data.sources[{number}]", source) for number, source in enumerate(self.data.sources)
        ]
        self.teacher = part_of(TeacherConfig, "teacher", self.teacher)
        self.optim = part_of(OptimConfig, "optim", self.optim)
        for name, low in {"batch_size": 1, "epochs": 1, "max_length": 3, "eval_every": 1, "save_every": 1}.items():
            at_least(name, getattr(self, name), low)
        for name in ("micro_batch_size", "max_steps", "num_negatives"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        at_least("log_every", self.log_every, 1)
        at_least("seeds", self.seeds, 1)
        at_least("seed", self.seed, 0)
        if self.seed + self.seeds > 2**63:
            raise ConfigError(f"seed is {self.seed}: at most {2**63 - self.seeds} for seeds={self.seeds}")
        above_zero("temperature", self.temperature)
        above_zero("hard_negative_weight", self.hard_negative_weight)
        above_zero("optim.lr", self.optim.lr)
        at_least("optim.clip", self.optim.clip, 0)
        at_least("optim.weight_decay", self.optim.weight_decay, 0)
        if not 0 <= self.optim.warmup < 1:
            raise ConfigError(f"optim.warmup is {self.optim.warmup}: a share of all steps, at least 0 and below 1")
        if not 0 <= self.optim.ema_decay < 1:
            raise ConfigError(f"optim.ema_decay is {self.optim.ema_decay}: a decay, at least 0 and below 1")
        if self.model.dropout is not None and not 0 <= self.model.dropout < 1:
            raise ConfigError(f"model.dropout is {self.model.dropout}: a rate, at least 0 and below 1")
        at_least("model.queue_size", self.model.queue_size, 0)
        if not 0 <= self.model.ema_decay < 1:
            raise ConfigError(f"model.ema_decay is {self.model.ema_decay}: at least 0 and below 1")
        if self.model.queue_size and self.candidates != "in_batch":
            raise ConfigError(f"model.queue_size needs candidates=in_batch, found {self.candidates!r}")
        if not 0 < self.data.augment_rate < 1:
            raise ConfigError(f"data.augment_rate is {self.data.augment_rate}: a share, above 0 and below 1")
        if (self.data.augment == "synonym") != (self.data.synonyms is not None):
            raise ConfigError("data.augment=synonym and data.synonyms, a file, go together: give both or none")
        if self.model.two_encoders and (self.model.fixed_dropout_mask or self.model.queue_size):
            raise ConfigError("model.two_encoders goes neither with model.fixed_dropout_mask nor with model.queue_size")
        for role, prompt in self.data.prompts.items():
            if role not in ROLES or not isinstance(prompt, str):
                known = f"{', '.join(ROLES)}, each with a text{did_you_mean(str(role), ROLES)}"
                raise ConfigError(f"data.prompts: found {role}: {prompt!r:.60}, expected {known}")
        if self.data.dev_corpus and not self.data.dev:
            raise ConfigError("data.dev_corpus needs data.dev, the file of (query, document) pairs")
        self._check_sources()
        self._check_teacher()

    def _check_sources(self) -> None:
        sources = self.data.sources
        if sources and (self.data.train or self.data.columns):
            raise ConfigError("data.sources stands in place of data.train and data.columns: give one of them")
        if sources and (self.model.queue_size or self.data.augment != "none"):
            option = "model.queue_size" if self.model.queue_size else "data.augment"
            raise ConfigError(f"{option} goes with data.train alone, not with data.sources")
        if len({source.share is None for source in sources}) > 1:
            raise ConfigError("data.sources: a share is given for some sources, expected for all or none")
        for number, source in enumerate(sources):
            name = f"data.sources[{number}]"
            if not source.train:
                raise ConfigError(f"{name}.train is empty: name a training file or a hub id")
            above_zero(f"{name}.share", 1 if source.share is None else source.share)
            above_zero(f"{name}.weight", source.weight)
            of_scores, scored = source.loss in ("cosent", "angle", "cosine_mse"), source.rows == "scored"
            if (of_scores and not scored) or (scored and source.loss == "contrastive"):
                raise ConfigError(f"{name}: loss={source.loss} does not go with rows={source.rows}")
            if source.loss == "none" and (not self.teacher.name or self.teacher.loss == "none"):
                raise ConfigError(f"{name}.loss is none, and there is no teacher.loss either: nothing would be learned")

    def _check_teacher(self) -> None:
        above_zero("teacher.weight", self.teacher.weight)
        above_zero("teacher.temperature", self.teacher.temperature)
        if self.teacher.mask_margin is not None and not self.teacher.name:
            raise ConfigError("teacher.mask_margin needs teacher.name, the encoder that guides")
        with_negatives = (source.rows != "scored" and source.loss != "none" for source in self.data.all_sources())
        if self.teacher.mask_margin is not None and not any(with_negatives):
            raise ConfigError("teacher.mask_margin masks negatives, but no source is trained by its negatives")
        if self.matryoshka and (self.model.queue_size or self.teacher.loss in ("l2", "cosine")):
            option = "model.queue_size" if self.model.queue_size else f"teacher.loss={self.teacher.loss}"
            raise ConfigError(f"matryoshka does not go with {option}, which needs all dimensions")
        if self.model.queue_size and self.teacher.name and self.teacher.loss != "none":
            raise ConfigError(
                f"model.queue_size does not go with teacher.loss={self.teacher.loss}, which knows no queue"
            )
        for dimensions in self.matryoshka:
            at_least("matryoshka", dimensions, 1)
        if self.teacher.name and self.teacher.loss == "none" and self.teacher.mask_margin is None:
            raise ConfigError("teacher.loss is none and teacher.mask_margin not given: the teacher would do nothing")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, as `config.yaml` holds them."""
        return dataclasses.asdict(self)


def at_least(name: str, value: float, low: float) -> None:
    """Raise a ConfigError that names the option if the value is below `low` or not finite."""
    if not low <= value < math.inf:
        raise ConfigError(f"{name} is {value}: at least {low}")


def above_zero(name: str, value: float) -> None:
    """Raise a ConfigError that names the option unless the value is positive and finite."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}: must be above 0")
