"""Draws `objectives-convexity.svg`: what softmax and negative sampling charge a model that is wrong.

python docs/figures/objectives-convexity.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from simcse.objectives import ContrastiveLogits, NegativeSampling, SoftmaxCrossEntropy

COUNTS = torch.tensor([40, 20, 10, 8, 6, 5, 4, 3, 2, 2])  # of ten answers to one query
TRUE = (COUNTS / COUNTS.sum()).double().log()  # (10,) log p_d
RARE = torch.nn.functional.one_hot(torch.tensor(9), 10).double()


def softmax(scores: Tensor) -> Tensor:
    """Cross-entropy over the training pairs."""
    y = torch.arange(10).repeat_interleave(COUNTS)
    return SoftmaxCrossEntropy()(ContrastiveLogits(scores.expand(len(y), 10), y))


def sampling(scores: Tensor) -> Tensor:
    """Negative sampling over the training pairs with each answer once as noise."""
    y = torch.arange(10).repeat_interleave(COUNTS)
    logits = torch.cat([scores[y][:, None], scores.expand(len(y), 10)], 1)
    return NegativeSampling()(ContrastiveLogits(logits, torch.zeros_like(y)))


def divergences(axis: Axes) -> None:
    """Bregman divergences of the two generators from a true ratio p_d / q = 1 to the model's."""
    model = torch.logspace(-1.2, 1.2, 200)
    axis.plot(model, -model.log() - 1 + model, label="softmax: z log z")
    axis.plot(model, -model.log() - 2 * (2 / (1 + model)).log(), label="sampling: z log z - (1 + z) log(1 + z)")
    axis.set_xscale("log")
    axis.set_xlabel("model's ratio, where 1 is true")
    axis.set_ylabel("Bregman divergence")


def excess_losses(axis: Axes) -> None:
    """The objectives themselves, on a model that gives a rare answer too high a score."""
    errors = torch.linspace(-4, 12, 161)
    for name, loss in (("softmax", softmax), ("negative_sampling, uniform noise", sampling)):
        excess = [float(loss((TRUE + error * RARE).log_softmax(0)) - loss(TRUE)) for error in errors.double()]
        axis.plot(errors, excess, label=name)
    axis.set_xlabel("score of a rare answer (2 %) above the truth, nats")
    axis.set_ylabel("loss above its least, nats")


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "objectives"  # the same file each time
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    divergences(axes[0])
    excess_losses(axes[1])
    for axis in axes:
        axis.legend(frameon=False, loc="upper left", fontsize="small")
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
