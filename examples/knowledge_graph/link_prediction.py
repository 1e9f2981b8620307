"""Link prediction by softmax and by negative sampling (Kamigaito and Hayashi 2021).

    python examples/knowledge_graph/link_prediction.py --data FB15k-237 --model ComplEx --objective sce

Prints filtered MRR and Hits@1/3/10, and adds a line of JSON to `--output`.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from graph import Graph, read_graph
from models import MODELS, Model
from torch import Tensor

from simcse.console import Parser, run
from simcse.errors import ConfigError, did_you_mean
from simcse.objectives import ContrastiveLogits, Noise, Objective, Uniform, Unigram, build_objective

log = logging.getLogger("knowledge_graph")

OBJECTIVES = {
    "sce": "softmax",
    "sce+ls": "label_smoothed",
    "sce+bc": "backward_corrected",
    "ns-uniform": "negative_sampling",
    "ns-frequency": "negative_sampling",
    "sans": "self_adversarial",
}
SCORES_AT_A_TIME = 2**21  # 8 MB


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Float32 matrix products: "medium" is bfloat16 inside, where the CPU has units for it; sums stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass
class KGConfig:
    """Train and evaluate a model of a knowledge graph."""

    data: str = ""
    """Folder with train.txt, valid.txt and test.txt: head<TAB>relation<TAB>tail."""

    model: str = "ComplEx"
    """ComplEx, DistMult, RESCAL, RotatE, TransE or TuckER."""

    objective: str = "sce"
    """sce, sce+ls, sce+bc (each against all entities), ns-uniform, ns-frequency or sans (against samples)."""

    size: int = 128
    """Numbers an entity vector."""

    dropout: float = 0.2
    """Rate on entity and query vectors."""

    smoothing: float = 0.1
    """Of sce+ls."""

    adversarial_temperature: float = 1.0
    """Of sans."""

    negatives: int = 256
    """Samples, which the queries of a batch share, for ns-uniform, ns-frequency and sans."""

    batch_size: int = 1024
    """Triples a step."""

    lr: float = 0.3
    """Of Adagrad (as in Lacroix et al. 2018, who have 0.1); falls to 0 on a line. `study.py` has one for each model."""

    epochs: int = 5
    """Passes over the training triples, each asked for its tail and for its head, and each epoch in a new order."""

    device: str = "cpu"
    """cpu or cuda."""

    seed: int = 0
    """Of weights, order, dropout and noise."""

    output: str | None = None
    """File of JSON lines to add the result to."""

    def steps(self, graph: Graph) -> int:
        """Batches an epoch."""
        return -(-len(graph.splits["train"]) // self.batch_size)


def build(config: KGConfig, graph: Graph) -> tuple[Model, Objective, Noise | None]:
    """Raises ConfigError for a name that is unknown or a size that does not fit."""
    for option, known in (("model", MODELS), ("objective", OBJECTIVES)):
        if (value := getattr(config, option)) not in known:
            raise ConfigError(
                f"--{option} is {value!r}, expected one of {', '.join(known)}{did_you_mean(value, known)}"
            )
    if config.size % 2:
        raise ConfigError(f"--size is {config.size}, expected an even number, for real and imaginary parts")
    options = {
        "sce+ls": {"smoothing": config.smoothing},
        "sans": {"adversarial_temperature": config.adversarial_temperature},
    }
    objective = build_objective(OBJECTIVES[config.objective], **options.get(config.objective, {}))
    noise: Noise | None = None
    if config.objective in ("ns-uniform", "sans"):
        noise = Uniform(graph.entities, config.negatives)
    elif config.objective == "ns-frequency":
        noise = Unigram(graph.answer_counts(), config.negatives, power=1.0)
    model = MODELS[config.model](graph.entities, graph.relations, config.size, config.dropout).to(config.device)
    if noise is not None:
        start_offset(model, graph, 1 if config.objective == "sans" else noise.k)
    return model, objective, noise


@torch.no_grad()
def start_offset(model: Model, graph: Graph, weight: int, queries: int = 512) -> None:
    """Set the offset so that an entity's mean log-odds are -log(weight), of negatives `weight` to each answer.

    All of them together then pull as hard as the answer does. Otherwise the first steps only move every score to that
    level, and Adagrad, which divides by the root of all squared slopes so far, hardly moves afterwards.
    """
    triples = graph.splits["train"]
    entity, relation, _ = triples[:: -(-len(triples) // queries)].to(model.entity.device).unbind(1)
    model.offset.fill_(-math.log(weight) - model.score(model.query(entity, relation), model.entity).mean())


@matmul_precision("medium")
def train(config: KGConfig, graph: Graph) -> Model:
    """The loop."""
    torch.manual_seed(config.seed)
    model, objective, noise = build(config, graph)
    triples = graph.splits["train"].to(config.device)
    correction = graph.query_counts() / graph.answer_counts()[graph.splits["train"][:, 2]]
    correction = correction.float().to(config.device)  # (N,) #x / #y
    optimizer = torch.optim.Adagrad(model.parameters(), lr=config.lr, fused=True)
    steps = config.steps(graph)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, config.epochs * steps)
    start = time.process_time()
    for epoch in range(config.epochs):
        model.train()
        total = torch.zeros((), device=config.device)
        for batch in batches(graph, config, shared=noise is None):
            optimizer.zero_grad()
            if noise is None:
                loss = against_all(model, triples, correction, batch, objective)
            else:
                loss = against_noise(model, triples[batch[0][:, 0]], noise, objective)
            optimizer.step()
            schedule.step()
            total += loss
        mean = float(total) / steps
        log.info("epoch %d  loss %.4f  %.0f s", epoch + 1, mean, time.process_time() - start)
    return model


def batches(graph: Graph, config: KGConfig, shared: bool) -> Iterator[list[Tensor]]:
    """An epoch: batches of indices of triples, each a list of (R, m); `shared`: the m of a row share their query."""
    groups = graph.shared_queries() if shared else [torch.arange(len(graph.splits["train"]))[:, None]]
    steps = config.steps(graph)
    shuffled = [group[torch.randperm(len(group))].to(config.device).tensor_split(steps) for group in groups]
    for batch in zip(*shuffled, strict=True):
        yield [group for group in batch if len(group)]


def against_all(model: Model, triples: Tensor, correction: Tensor, batch: list[Tensor], objective: Objective) -> Tensor:
    """Loss of a batch of triples against all entities, with its gradients.

    Scores and their gradients are made and used up by blocks of queries, which stay in the cache.
    """
    entity, relation = triples[torch.cat([group[:, 0] for group in batch]), :2].unbind(1)
    query = model.query(entity, relation)  # (R, size)
    leaf = query.detach().requires_grad_()
    total = torch.zeros((), device=query.device)
    pairs = sum(group.numel() for group in batch)
    rows = max(1, SCORES_AT_A_TIME // len(model.entity))
    for group, vectors in zip(batch, leaf.split([len(group) for group in batch]), strict=True):
        for block, some in zip(group.split(rows), vectors.split(rows), strict=True):
            loss = over_answers(objective, model.score(some, model.entity), triples[block, 2], correction[block])
            loss = loss * (block.numel() / pairs)
            loss.backward()
            total += loss.detach()
    query.backward(leaf.grad)
    return total


def over_answers(objective: Objective, logits: Tensor, answers: Tensor, correction: Tensor) -> Tensor:
    """Mean of a softmax objective over the answers (R, m) and #x / #y (R, m) of each row, by one softmax a row.

    Each is linear in its target's score, w (log sum_c exp(s_c) - (1 - l) s_y) but for terms without y, so that the
    loss of another answer differs by w (1 - l) times the difference of the scores.
    """
    loss = objective(ContrastiveLogits(logits, answers[:, 0], correction=correction.mean(1)))
    if answers.shape[1] == 1:
        return loss
    own = logits.gather(1, answers)  # (R, m)
    slope = correction if objective.needs_counts else 1 - getattr(objective, "smoothing", 0.0)
    return loss + (slope * (own[:, :1] - own)).mean()


def against_noise(model: Model, triples: Tensor, noise: Noise, objective: Objective) -> Tensor:
    """Loss of a batch of triples (B, 3) against samples that its queries share, with its gradients."""
    entity, relation, answer = triples.unbind(1)
    query = model.query(entity, relation)  # (B, size)
    anyone = torch.randint(len(model.entity), (1,))  # a sampler leaves one class out
    sample = noise.sample(anyone)[0].to(answer)  # (k,)
    own = model.score_own(query, F.embedding(answer, model.entity))  # (B,)
    others = model.score(query, F.embedding(sample, model.entity))  # (B, k)
    logits = torch.cat([own[:, None], others], 1) + model.offset  # (B, 1 + k)
    valid = torch.cat([torch.ones_like(answer[:, None], dtype=torch.bool), sample != answer[:, None]], 1)
    loss = objective(ContrastiveLogits(logits, torch.zeros_like(answer), valid))
    loss.backward()
    return loss.detach()


@matmul_precision("highest")
@torch.inference_mode()
def evaluate(model: Model, graph: Graph, split: str = "test", batch_size: int = 256) -> dict[str, float]:
    """Filtered MRR and Hits@1/3/10 over heads and tails; of equal scores, the mean rank counts."""
    model.eval()
    ranks = []
    for triples in graph.splits[split].split(batch_size):
        entity, relation, answer = triples.to(model.entity.device).unbind(1)
        scores = model.score(model.query(entity, relation), model.entity)  # (R, entities)
        own = scores.gather(1, answer[:, None])  # (R, 1)
        rows, columns = graph.true_answers(triples)
        scores[rows.to(scores.device), columns.to(scores.device)] = -torch.inf
        better, equal = (scores > own).count_nonzero(1), (scores == own).count_nonzero(1)  # itself is filtered out
        ranks.append(1 + better + equal / 2)
    rank: Tensor = torch.cat(ranks)
    hits = {f"hits@{k}": float((rank <= k).float().mean()) for k in (1, 3, 10)}
    return {"mrr": float((1 / rank).mean()), **hits}


def add_line(path: Path, config: KGConfig, result: dict[str, float], seconds: float) -> dict[str, object]:
    """Add settings and result to a file of JSON lines; returns what it added."""
    record = {**asdict(config), **result, "seconds": round(seconds)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def main(argv: list[str]) -> None:
    parser = Parser(description="Link prediction by softmax and by negative sampling.")
    parser.add_class_arguments(KGConfig, as_group=False)
    config = KGConfig(**vars(parser.parse_args(argv)))
    start = time.process_time()
    graph = read_graph(config.data)
    result = evaluate(train(config, graph), graph)
    print("  ".join(f"{name} {value:.3f}" for name, value in result.items()))
    if config.output:
        add_line(Path(config.output), config, result, time.process_time() - start)


if __name__ == "__main__":
    import sys

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run(main))
