"""A normalising flow that maps vectors to a standard Gaussian (Li et al. 2020 call it BERT-flow; the flow is RealNVP).

An invertible map f is fitted by maximum likelihood, log p(x) = log N(f(x); 0, I) + log |det df/dx|; f(x) is the new
vector. Each block is a random rotation, which mixes the dimensions, and an affine coupling (Dinh et al. 2017): half of
them scale and shift the other half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simcse.display.progress import progress

__all__ = ["Flow", "fit_flow"]

MAX_LOG_SCALE = 2.0  # a coupling scales by at most e^2 either way: a bound keeps maximum likelihood from running away


class Coupling(nn.Module):
    """Half of the dimensions scale and shift the other half; the identity at first.

    Args:
        d: dimensions, at least 2.
        hidden: width of the network between the halves.
    """

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.kept = d // 2
        self.into = nn.Linear(self.kept, hidden)
        self.out = nn.Linear(hidden, 2 * (d - self.kept))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d) -> (n, d), and log |det| (n,)."""
        kept, other = x[:, : self.kept], x[:, self.kept :]
        raw, shift = self.out(F.gelu(self.into(kept))).chunk(2, dim=1)
        log_scale = MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)
        return torch.cat([kept, other * log_scale.exp() + shift], dim=1), log_scale.sum(dim=1)


class Flow(nn.Module):
    """Standardise, then blocks of rotation and coupling.

    Args:
        d: dimensions, at least 2.
        blocks: how many.
        hidden: width of each coupling's network.
    """

    mean: Tensor
    log_std: Tensor

    def __init__(self, d: int, blocks: int = 4, hidden: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("log_std", torch.zeros(d))
        self.couplings = nn.ModuleList(Coupling(d, hidden) for _ in range(blocks))
        for number in range(blocks):
            rotation, _ = torch.linalg.qr(torch.randn(d, d))
            self.register_buffer(f"rotation_{number}", rotation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d) -> z (n, d), and log |det dz/dx| (n,)."""
        z = (x - self.mean) * (-self.log_std).exp()
        log_det = (-self.log_std.sum()).expand(len(x))
        for number, coupling in enumerate(self.couplings):
            z, change = coupling(z @ self.get_buffer(f"rotation_{number}"))  # a rotation has determinant 1 or -1
            log_det = log_det + change
        return z, log_det

    def nll(self, x: Tensor) -> Tensor:
        """Mean negative log-likelihood of the rows, in nats a dimension."""
        z, log_det = self(x)
        log_p = -0.5 * (z * z).sum(dim=1) - 0.5 * x.shape[1] * math.log(2 * math.pi) + log_det
        mean: Tensor = -log_p.mean() / x.shape[1]
        return mean

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> Flow:
        """The flow whose `state_dict` this is; no random state is used up."""
        hidden = len(weights["couplings.0.into.bias"])
        with torch.random.fork_rng(devices=[]):
            flow = cls(len(weights["mean"]), sum(key.startswith("rotation_") for key in weights), hidden)
        flow.load_state_dict(dict(weights))
        return flow.requires_grad_(False).eval()


def fit_flow(
    vectors: Tensor,
    *,
    blocks: int = 4,
    hidden: int = 256,
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 1e-3,
    held_out: float = 0.1,
    seed: int = 0,
    show_progress: bool = False,
) -> tuple[Flow, dict[str, float]]:
    """Fit by Adam with a cosine decay; the state with the best likelihood of rows held out is kept.

    Args:
        vectors: (n, d) float32, n >= 20, d >= 2.
        blocks, hidden: of the flow.
        epochs: passes over the vectors.
        batch_size: rows a step.
        lr: peak learning rate.
        held_out: share of the rows that are not trained on.
        seed: of rotations, weights and order; the caller's random state is left as it was.
        show_progress: a bar on stderr.

    Returns:
        The flow, in evaluation mode, and `nll_before`, `nll_after` of the held-out rows (nats a dimension; before:
        a Gaussian with a variance for each dimension).
    """
    count = max(1, round(held_out * len(vectors)))
    steps = epochs * math.ceil((len(vectors) - count) / batch_size)
    with torch.random.fork_rng(devices=[]), progress(steps, show_progress, "fitting", "steps") as advance:
        torch.manual_seed(seed)
        order = torch.randperm(len(vectors))
        test, train = vectors[order[:count]], vectors[order[count:]]
        flow = Flow(vectors.shape[1], blocks, hidden)
        flow.mean.copy_(train.mean(dim=0))
        flow.log_std.copy_(train.std(dim=0).clamp_min(1e-6).log())
        optimizer = torch.optim.Adam(flow.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with torch.no_grad():
            before = best = float(flow.nll(test))
        kept = {key: value.clone() for key, value in flow.state_dict().items()}
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(train)), batch_size):
                optimizer.zero_grad()
                flow.nll(train[rows]).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                advance(1)
            with torch.no_grad():
                score = float(flow.nll(test))
            if score < best:
                best, kept = score, {key: value.clone() for key, value in flow.state_dict().items()}
        flow.load_state_dict(kept)
    return flow.requires_grad_(False).eval(), {"nll_before": before, "nll_after": best}
