"""Six ways to turn (entity, relation) into a query vector that is near the answers.

The bilinear ones score by dot product, the translating ones by distance. Either is one matrix product with all
entities.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLOSEST = 1e-6  # square of a distance, which has no slope at 0


class Model(nn.Module):
    """Tables of entities and relations; dot product of query and answer.

    Args:
        entities, relations: how many.
        size: numbers an entity vector; even for ComplEx and RotatE.
        dropout: rate on entity and on query vectors in training.
    """

    def __init__(self, entities: int, relations: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.entity = nn.Parameter(torch.randn(entities, size) / math.sqrt(size))
        self.relation = nn.Parameter(self.first_relations(relations))
        self.offset = nn.Parameter(torch.zeros(()))
        """What makes a score a log-odds; only sampled objectives ask for it, and it changes no rank."""
        self.dropout = nn.Dropout(dropout)

    def first_relations(self, relations: int) -> Tensor:
        """(relations, ...) values to start from."""
        return torch.randn(relations, self.size) / math.sqrt(self.size) + 1.0

    def query(self, entity: Tensor, relation: Tensor) -> Tensor:
        """(R,) ids and (R,) ids -> (R, size)."""
        head = self.dropout(F.embedding(entity, self.entity))  # (R, size)
        return self.dropout(self.relate(head, relation))

    def relate(self, head: Tensor, relation: Tensor) -> Tensor:
        raise NotImplementedError

    def score(self, query: Tensor, answers: Tensor) -> Tensor:
        """(R, size) and (C, size) -> (R, C), each with each: one matrix product."""
        return query @ answers.T

    def score_own(self, query: Tensor, answer: Tensor) -> Tensor:
        """(R, size) and (R, size) -> (R,), each with its own."""
        return (query * answer).sum(1)


class Closeness(torch.autograd.Function):
    """Minus the Euclidean distance, of each (R, D) with each (C, D) -> (R, C), as one matrix product.

    torch.cdist puts the squares into the product too, where bfloat16 would lose them.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, answers: Tensor) -> Tensor:
        scores = (-2 * query) @ answers.T  # (R, C), and all the rest in place
        scores += torch.linalg.vector_norm(query, dim=1, keepdim=True).square()
        scores += torch.linalg.vector_norm(answers, dim=1).square()
        scores.clamp_(min=CLOSEST).sqrt_().neg_()
        ctx.save_for_backward(query, answers, scores)
        return scores

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        query, answers, scores = ctx.saved_tensors
        slope = torch.div(slope, scores).neg_()  # (R, C)
        to_query = (slope @ answers).addcmul_(slope.sum(1, keepdim=True), query, value=-1)
        to_answers = (slope.T @ query).addcmul_(slope.sum(0)[:, None], answers, value=-1)
        return to_query, to_answers


class DistMult(Model):
    """h * r (Yang et al. 2015)."""

    def relate(self, head: Tensor, relation: Tensor) -> Tensor:
        return head * F.embedding(relation, self.relation)


class ComplEx(Model):
    """h * r in complex numbers, real parts first (Trouillon et al. 2016)."""

    def relate(self, head: Tensor, relation: Tensor) -> Tensor:
        a, b = head.chunk(2, 1)
        c, d = F.embedding(relation, self.relation).chunk(2, 1)
        return torch.cat([a * c - b * d, a * d + b * c], 1)


class RESCAL(Model):
    """h W_r with a matrix for each relation (Nickel et al. 2011)."""

    def first_relations(self, relations: int) -> Tensor:
        return torch.eye(self.size) + torch.randn(relations, self.size, self.size) / math.sqrt(self.size)

    def relate(self, head: Tensor, relation: Tensor) -> Tensor:
        return torch.einsum("rd,rde->re", head, self.relation.index_select(0, relation))


class TuckER(Model):
    """h W_r with W_r a mixture, by the relation's vector, of 32 shared matrices (Balazevic et al. 2019)."""

    shared = 32

    def __init__(self, entities: int, relations: int, size: int, dropout: float = 0.0) -> None:
        super().__init__(entities, relations, size, dropout)
        self.core = nn.Parameter(torch.randn(self.shared, size * size) / size)

    def first_relations(self, relations: int) -> Tensor:
        return torch.randn(relations, self.shared)

    def relate(self, head: Tensor, relation: Tensor) -> Tensor:
        mixed = (self.relation @ self.core).unflatten(1, (self.size, self.size))  # (relations, size, size)
        return torch.einsum("rd,rde->re", head, mixed.index_select(0, relation))


class TransE(Model):
    """h + r, scored by minus the Euclidean distance (Bordes et al. 2013)."""

    def first_relations(self, relations: int) -> Tensor:
        return torch.randn(relations, self.size) / math.sqrt(self.size)

    def relate(self, head: Tensor, relation: Tensor) -> Tensor:
        return head + F.embedding(relation, self.relation)

    def score(self, query: Tensor, answers: Tensor) -> Tensor:
        return Closeness.apply(query, answers)

    def score_own(self, query: Tensor, answer: Tensor) -> Tensor:
        return -(query - answer).square().sum(1).clamp(min=CLOSEST).sqrt()


class RotatE(TransE):
    """h turned by the relation's angles, scored as TransE (Sun et al. 2019, who sum moduli over the dimensions)."""

    def first_relations(self, relations: int) -> Tensor:
        return (2 * torch.rand(relations, self.size // 2) - 1) * math.pi

    def relate(self, head: Tensor, relation: Tensor) -> Tensor:
        a, b = head.chunk(2, 1)
        angle = F.embedding(relation, self.relation)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], 1)


MODELS: dict[str, type[Model]] = {
    model.__name__: model for model in (ComplEx, DistMult, RESCAL, RotatE, TransE, TuckER)
}
