"""The loss of a config: of one source, or of several, with a teacher's."""

from __future__ import annotations

from simcse.errors import ConfigError
from simcse.objectives import build_candidates, build_objective
from simcse.objectives.scored import SCORED
from simcse.training.config import SourceConfig, TrainConfig
from simcse.training.loss import (
    ContrastiveLoss,
    Criterion,
    DistillationLoss,
    MatryoshkaLoss,
    MixedLoss,
    ScoredPairsLoss,
)

__all__ = ["build_criterion", "build_loss"]


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
    weights = [source.weight for source in sources]
    if weights == [1.0] and not learns and isinstance(losses[0], ContrastiveLoss):
        return within(config, losses[0], dimension)
    distillation = DistillationLoss(
        teacher.loss, build_loss(config).candidates, teacher.temperature, [source.train for source in sources]
    )
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
