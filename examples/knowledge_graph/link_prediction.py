"""Link prediction by softmax and by negative sampling (Kamigaito and Hayashi 2021).

    python examples/knowledge_graph/link_prediction.py --data FB15k-237 --model ComplEx --objective sce

Prints filtered MRR and Hits@1/3/10, and adds a line of JSON to `--output`.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from graph import Graph, read_graph
from models import MODELS, Model
from torch import Tensor

from simcse.console import Parser, nearest, run
from simcse.errors import ConfigError
from simcse.objectives import Noise, Objective, Scores, Uniform, Unigram, build_objective

log = logging.getLogger("knowledge_graph")

OBJECTIVES = {
    "sce": "softmax",
    "sce+ls": "label_smoothed",
    "sce+bc": "backward_corrected",
    "ns-uniform": "negative_sampling",
    "ns-frequency": "negative_sampling",
    "sans": "self_adversarial",
}


@dataclass
class KGConfig:
    """Train and judge a model of a knowledge graph."""

    data: str = ""
    """Folder with train.txt, valid.txt and test.txt: head<TAB>relation<TAB>tail."""

    model: str = "ComplEx"
    """ComplEx, DistMult, RESCAL, RotatE, TransE or TuckER."""

    objective: str = "sce"
    """sce, sce+ls, sce+bc (each against all entities), ns-uniform, ns-frequency or sans (against samples)."""

    size: int = 128
    """Numbers an entity vector."""

    dropout: float = 0.3
    """Rate on entity and query vectors."""

    smoothing: float = 0.1
    """Of sce+ls."""

    adversarial_temperature: float = 1.0
    """Of sans."""

    margin: float = 9.0
    """Score of a distance of 0, for TransE and RotatE (Sun et al. 2019: 9 on FB15k-237, 6 on WN18RR)."""

    negatives: int = 128
    """Samples a query for ns-uniform, ns-frequency and sans."""

    batch_size: int = 512
    """Queries a step."""

    lr: float = 1e-3
    """Of Adam; falls to 0 on a line."""

    epochs: int = 20
    """Passes over the training triples, each asked for its tail and for its head."""

    device: str = "cpu"
    """cpu or cuda."""

    seed: int = 0
    """Of weights, order, dropout and noise."""

    output: str | None = None
    """File of JSON lines to add the result to."""


def build(config: KGConfig, graph: Graph) -> tuple[Model, Objective, Noise | None]:
    """Raises ConfigError for a name that is unknown or a size that does not fit."""
    for option, known in (("model", MODELS), ("objective", OBJECTIVES)):
        if (value := getattr(config, option)) not in known:
            raise ConfigError(f"--{option} is {value!r}, expected one of {', '.join(known)}{nearest(value, known)}")
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
    model = MODELS[config.model](graph.entities, graph.relations, config.size, config.dropout, config.margin)
    return model.to(config.device), objective, noise


def train(config: KGConfig, graph: Graph) -> Model:
    """The loop."""
    torch.manual_seed(config.seed)
    model, objective, noise = build(config, graph)
    triples = graph.splits["train"]
    correction = (graph.query_counts() / graph.answer_counts()[triples[:, 2]]).float().to(config.device)  # #x / #y
    moved = triples.to(config.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    steps = config.epochs * -(-len(triples) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    start = time.perf_counter()
    for epoch in range(config.epochs):
        model.train()
        total = torch.zeros((), device=config.device)
        for rows in torch.randperm(len(triples)).split(config.batch_size):
            entity, relation, answer = moved[rows.to(config.device)].unbind(1)
            query = model.query(entity, relation)  # (R, size)
            if noise is None:
                scores = Scores(model.score_all(query), answer, correction=correction[rows.to(config.device)])
            else:
                columns = torch.cat([answer[:, None], noise.sample(triples[rows, 2]).to(answer)], 1)  # (R, 1 + k)
                scores = Scores(model.score_some(query, columns), torch.zeros_like(answer))
            loss = objective(scores)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(rows)
        log.info("epoch %d  loss %.4f  %.0f s", epoch + 1, float(total) / len(triples), time.perf_counter() - start)
    return model


@torch.inference_mode()
def judge(model: Model, graph: Graph, split: str = "test", batch_size: int = 1024) -> dict[str, float]:
    """Filtered MRR and Hits@1/3/10 over heads and tails; of equal scores, the mean rank counts."""
    model.eval()
    ranks = []
    for triples in graph.splits[split].split(batch_size):
        entity, relation, answer = triples.to(model.entity.device).unbind(1)
        scores = model.score_all(model.query(entity, relation))  # (R, entities)
        own = scores.gather(1, answer[:, None])  # (R, 1)
        rows, columns = graph.true_answers(triples)
        scores[rows.to(scores.device), columns.to(scores.device)] = -torch.inf
        better, equal = (scores > own).sum(1), (scores == own).sum(1)  # the answer itself is filtered out
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
    start = time.perf_counter()
    graph = read_graph(config.data)
    result = judge(train(config, graph), graph)
    print("  ".join(f"{name} {value:.3f}" for name, value in result.items()))
    if config.output:
        add_line(Path(config.output), config, result, time.perf_counter() - start)


if __name__ == "__main__":
    import sys

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run(main))
