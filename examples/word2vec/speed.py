"""Loss per second of `cbow.py` beside the same model written out in plain numpy, as a textbook does.

    OMP_NUM_THREADS=1 python examples/word2vec/speed.py --data ptb.train.txt --seconds 60

Both get the same text, size, window, noise and optimizer (Adam). The numpy version has what textbooks have: batches of
100, lr 0.001, `numpy.random.choice` for the noise, gradients of whole tables. Loss: mean over steps, the same formula.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from cbow import CBOWConfig, read_stream, train, windows

from simcse.console import Parser, run


@dataclass
class SpeedConfig:
    """Compare the speed of two versions of CBOW."""

    data: str = ""
    """Text file, a sentence a line."""

    seconds: float = 60.0
    """How long the numpy version trains; ours trains for one epoch."""


class TextbookCBOW:
    """CBOW with negative sampling and Adam, by hand."""

    def __init__(self, counts: np.ndarray, size: int, negatives: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.tables = [
            (0.01 * self.random.standard_normal((len(counts), size))).astype(np.float32),  # inside
            (0.01 * self.random.standard_normal((len(counts), size))).astype(np.float32),  # outside
        ]
        self.moments = [(np.zeros_like(table), np.zeros_like(table)) for table in self.tables]
        self.noise = counts**0.75 / (counts**0.75).sum()
        self.negatives, self.steps = negatives, 0

    def step(self, contexts: np.ndarray, targets: np.ndarray, lr: float = 0.001) -> float:
        """One batch, contexts (R, 2 * window) and targets (R,); the loss before the step."""
        inside, outside = self.tables
        rows, width = contexts.shape
        hidden = inside[contexts].mean(1)  # (R, D)
        columns = np.concatenate([targets[:, None], self.draw(targets)], 1)  # (R, 1 + k)
        candidates = outside[columns]  # (R, 1 + k, D)
        scores = np.einsum("rd,rkd->rk", hidden, candidates)
        labels = np.zeros_like(scores)
        labels[:, 0] = 1
        loss = (np.maximum(scores, 0) - scores * labels + np.log1p(np.exp(-np.abs(scores)))).sum() / rows
        slope = (1 / (1 + np.exp(-scores)) - labels) / rows  # (R, 1 + k)
        gradients = [np.zeros_like(inside), np.zeros_like(outside)]
        np.add.at(gradients[1], columns, slope[:, :, None] * hidden[:, None, :])
        to_hidden = np.einsum("rk,rkd->rd", slope, candidates) / width
        np.add.at(gradients[0], contexts, np.broadcast_to(to_hidden[:, None, :], (*contexts.shape, hidden.shape[1])))
        self.adam(gradients, lr)
        return float(loss)

    def draw(self, targets: np.ndarray) -> np.ndarray:
        """(R, k) words without repeats and without the row's target, row by row."""
        drawn = np.empty((len(targets), self.negatives), dtype=np.int64)
        for row, target in enumerate(targets):
            noise = self.noise.copy()
            noise[target] = 0
            drawn[row] = self.random.choice(len(noise), self.negatives, replace=False, p=noise / noise.sum())
        return drawn

    def adam(self, gradients: list[np.ndarray], lr: float, b1: float = 0.9, b2: float = 0.999) -> None:
        """Kingma and Ba (2015), on whole tables."""
        self.steps += 1
        rate = lr * np.sqrt(1 - b2**self.steps) / (1 - b1**self.steps)
        for table, gradient, (first, second) in zip(self.tables, gradients, self.moments, strict=True):
            first += (1 - b1) * (gradient - first)
            second += (1 - b2) * (gradient**2 - second)
            table -= rate * first / (np.sqrt(second) + 1e-7)


def train_textbook(config: CBOWConfig, words: int, stream: np.ndarray, seconds: float) -> list[tuple[float, float]]:
    """(seconds, mean loss of the last 100 steps), and so on until the time is up."""
    contexts, targets = (tensor.numpy() for tensor in windows(stream, config.window))
    model = TextbookCBOW(np.bincount(stream, minlength=words), config.size, config.negatives, config.seed)
    start, losses, history = time.perf_counter(), [], []
    while time.perf_counter() - start < seconds:
        rows = model.random.integers(len(targets), size=100)
        losses.append(model.step(contexts[rows], targets[rows]))
        if len(losses) % 100 == 0:
            history.append((time.perf_counter() - start, float(np.mean(losses[-100:]))))
    return history


def main(argv: list[str]) -> None:
    parser = Parser(description="Compare the speed of two versions of CBOW.")
    parser.add_class_arguments(SpeedConfig, as_group=False)
    options = SpeedConfig(**vars(parser.parse_args(argv)))
    config = CBOWConfig(data=options.data, epochs=1)
    words, stream = read_stream(config.data, config.min_count)
    ours: list[tuple[float, float]] = []
    train(config, len(words), stream, ours)
    theirs = train_textbook(config, len(words), stream, options.seconds)
    our_rate = len(ours) * 100 * config.batch_size / ours[-1][0]
    their_rate = len(theirs) * 100 * 100 / theirs[-1][0]
    print(f"words/s: ours {our_rate:,.0f}, numpy {their_rate:,.0f}, ratio {our_rate / their_rate:.0f}")
    reached = next((time for time, loss in ours if loss <= theirs[-1][1]), float("nan"))
    seconds, loss = theirs[-1]
    print(f"loss {loss:.3f}: ours after {reached:.1f} s, numpy after {seconds:.1f} s, ratio {seconds / reached:.0f}")
    print(f"loss after {ours[-1][0]:.1f} s, one epoch: ours {ours[-1][1]:.3f}")


if __name__ == "__main__":
    import sys

    sys.exit(run(main))
