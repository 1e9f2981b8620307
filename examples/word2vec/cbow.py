"""Word vectors by CBOW with negative sampling (Mikolov et al. 2013): the mean of the words around predicts the word.

    python examples/word2vec/cbow.py --data ptb.train.txt --output vectors.npz

then `evaluate_vectors.py` says what they know, and `speed.py` how fast this is beside a plain numpy version.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simcse.console import Parser, run
from simcse.errors import ConfigError, DataError
from simcse.files import replaced_file
from simcse.objectives import NegativeSampling, Unigram, sampled_candidates

log = logging.getLogger("word2vec")


@dataclass
class CBOWConfig:
    """Train word vectors."""

    data: str = ""
    """Text file, a sentence a line, words separated by spaces."""

    output: str = "vectors.npz"
    """Where the words and their vectors go."""

    size: int = 100
    """Numbers a vector."""

    window: int = 5
    """Words on either side that predict the one in the middle, across line ends, as the book does it."""

    negatives: int = 5
    """Noise words a word."""

    power: float = 0.75
    """Noise is drawn by frequency to this power; 0 is uniform."""

    min_count: int = 1
    """Leave out words that are rarer than this."""

    batch_size: int = 1024
    """Words a step."""

    lr: float = 3e-3
    """Peak learning rate of Adam, falling to 0 on a line."""

    epochs: int = 10
    """Passes over the text."""

    seed: int = 0
    """Of the vectors at the start, the order, and the noise."""


class CBOW(nn.Module):
    """Two tables: `inside` for a word as part of a context, `outside` for a word to be predicted."""

    def __init__(self, words: int, size: int) -> None:
        super().__init__()
        self.inside = nn.Embedding(words, size)
        self.outside = nn.Parameter(torch.zeros(words, size))
        nn.init.normal_(self.inside.weight, std=1 / math.sqrt(size))

    def forward(self, contexts: Tensor) -> Tensor:
        """(R, 2 * window) word ids -> (R, size) mean of their vectors."""
        return F.embedding_bag(contexts, self.inside.weight, mode="mean")


def read_stream(path: str, min_count: int) -> tuple[list[str], np.ndarray]:
    """The words by falling frequency, and the text as one stream of their ids, lines ended by <eos>.

    Raises:
        DataError: no such file, or fewer than two different words.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; --data needs a text file, a sentence a line")
    text = [word for line in Path(path).read_text(encoding="utf-8").splitlines() for word in [*line.split(), "<eos>"]]
    counts = Counter(text)
    words = [word for word, count in counts.most_common() if count >= min_count]
    if len(words) < 2:
        raise DataError(f"{path}: {len(words)} different words of --min_count {min_count} or more, expected 2 or more")
    ids = {word: i for i, word in enumerate(words)}
    return words, np.array([ids[word] for word in text if word in ids], dtype=np.int64)


def windows(stream: np.ndarray, window: int) -> tuple[Tensor, Tensor]:
    """(N, 2 * window) contexts and (N,) the words in their middle.

    Raises:
        ConfigError: a window wider than the text.
    """
    if not 0 < 2 * window < len(stream):
        raise ConfigError(
            f"--window is {window}, expected 1 to {(len(stream) - 1) // 2} for a text of {len(stream)} words"
        )
    spans = torch.from_numpy(stream).unfold(0, 2 * window + 1, 1)  # (N, 2 * window + 1)
    around = torch.arange(2 * window + 1) != window
    return spans[:, around], spans[:, window]


def train(config: CBOWConfig, words: int, stream: np.ndarray, history: list[tuple[float, float]] | None = None) -> CBOW:
    """The loop. `history` collects (seconds, mean loss of the last 100 steps)."""
    torch.manual_seed(config.seed)
    contexts, targets = windows(stream, config.window)
    counts = torch.from_numpy(np.bincount(stream, minlength=words))
    noise, objective = Unigram(counts, config.negatives, power=config.power), NegativeSampling()
    model = CBOW(words, config.size)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    steps = config.epochs * math.ceil(len(targets) / config.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, steps)
    start, losses = time.perf_counter(), []
    for epoch in range(config.epochs):
        for rows in torch.randperm(len(targets)).split(config.batch_size):
            target = targets[rows]
            loss = objective(sampled_candidates(model(contexts[rows]), model.outside, target, noise.sample(target)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            if history is not None and len(losses) % 100 == 0:
                history.append((time.perf_counter() - start, float(torch.stack(losses[-100:]).mean())))
        recent = float(torch.stack(losses[-100:]).mean())
        log.info("epoch %d  loss %.3f  %.0f s", epoch + 1, recent, time.perf_counter() - start)
    return model


def save(path: str, words: list[str], vectors: np.ndarray) -> None:
    """Words and vectors in one file."""
    with replaced_file(path) as new, new.open("wb") as file:
        np.savez(file, words=np.array(words), vectors=vectors)


def main(argv: list[str]) -> None:
    parser = Parser(description="Train word vectors.")
    parser.add_class_arguments(CBOWConfig, as_group=False)
    config = CBOWConfig(**vars(parser.parse_args(argv)))
    words, stream = read_stream(config.data, config.min_count)
    log.info("%d words, %d of them different", len(stream), len(words))
    model = train(config, len(words), stream)
    save(config.output, words, model.inside.weight.detach().numpy())
    log.info("wrote %s", config.output)


if __name__ == "__main__":
    import sys

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run(main))
