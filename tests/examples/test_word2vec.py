"""The word2vec study on a tiny language whose structure is known."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from simcse.console import run

STUDY = Path(__file__).parents[2] / "examples" / "word2vec"
ANIMALS, FOODS = ["cat", "dog", "cow", "pig"], ["pie", "rice", "soup", "cake"]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch):
    """The modules of the study, imported as its scripts import each other."""
    monkeypatch.syspath_prepend(STUDY)
    for name in ("cbow", "evaluate_vectors", "speed", "study"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import cbow
    import evaluate_vectors
    import speed

    yield cbow, evaluate_vectors, speed
    for name in ("cbow", "evaluate_vectors", "speed", "study"):
        sys.modules.pop(name, None)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Animals run, foods are eaten: words of a kind have the same neighbours."""
    rng = random.Random(0)
    lines = []
    for _ in range(400):
        lines.append(f"the {rng.choice(ANIMALS)} runs and sleeps in the barn")
        lines.append(f"we eat {rng.choice(FOODS)} with a spoon at noon")
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_words_of_a_kind_end_up_together(study, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cbow, evaluate_vectors, _ = study
    vectors = tmp_path / "vectors.npz"
    options = ["--size", "16", "--window", "2", "--epochs", "4", "--batch_size", "64", "--lr", "0.02"]
    cbow.main(["--data", str(corpus), "--output", str(vectors), *options])
    words = evaluate_vectors.load(str(vectors))
    for kind in (ANIMALS, FOODS):
        for word in kind:
            found = words.nearest(words.vectors[words.ids[word]], 3, {word})
            assert {other for other, _ in found} == set(kind) - {word}

    pairs = tmp_path / "pairs.txt"
    pairs.write_text("Cat\tdog\t9\npie\tcake\t9\ncow\tsoup\t1\npig\trice\t1\nqueen\tking\t5\n", encoding="utf-8")
    value, known, total = evaluate_vectors.similarity(words, str(pairs))
    assert (known, total) == (4, 5)
    assert value > 80
    evaluate_vectors.main(["--vectors", str(vectors), "--nearest", "cat", "--similarity", str(pairs)])
    assert "pairs.txt: Spearman" in capsys.readouterr().out


def test_analogies_leave_the_question_out(study, tmp_path: Path) -> None:
    """b - a + c is nearest to c itself here; the answer is the nearest of the other words."""
    _, evaluate_vectors, _ = study
    names = ["man", "king", "woman", "queen", "far"]
    vectors = np.array([[1, 0, 0], [1, 0, 0.3], [0, 1, 0], [0, 1, 0.3], [0, 0, -1]])
    questions = tmp_path / "questions.txt"
    questions.write_text(": family\nman king woman queen\nman king boy prince\n: other\nking man queen far\n")
    assert evaluate_vectors.analogies(evaluate_vectors.Words(names, vectors), str(questions)) == {
        "family": (1, 1, 2),
        "other": (0, 1, 1),
    }


def test_windows_are_all_words_with_both_sides(study) -> None:
    cbow, _, _ = study
    contexts, targets = cbow.windows(np.arange(6), 2)
    assert targets.tolist() == [2, 3]
    assert contexts.tolist() == [[0, 1, 3, 4], [1, 2, 4, 5]]


def test_the_textbook_has_the_same_loss_and_gradient(study, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of plain numpy against autograd through our objective: the same tables, the same noise."""
    cbow, _, speed = study
    counts = np.array([5, 4, 3, 2, 2, 1, 1, 1])
    book = speed.TextbookCBOW(counts, size=4, negatives=3)
    inside, outside = (torch.tensor(table, dtype=torch.float32, requires_grad=True) for table in book.tables)
    contexts, targets = np.array([[0, 1, 3, 3], [2, 0, 5, 1], [7, 7, 1, 0]]), np.array([2, 4, 2])
    noise = book.draw(targets)
    assert all(len({*row, target}) == 4 for row, target in zip(noise.tolist(), targets.tolist(), strict=True))
    gradients: list[np.ndarray] = []
    monkeypatch.setattr(book, "draw", lambda targets: noise)
    monkeypatch.setattr(book, "adam", lambda found, lr: gradients.extend(found))
    loss = book.step(contexts, targets)

    hidden = torch.nn.functional.embedding_bag(torch.from_numpy(contexts), inside, mode="mean")
    scores = cbow.sampled_candidates(hidden, outside, torch.from_numpy(targets), torch.from_numpy(noise))
    expected = cbow.NegativeSampling()(scores)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradients[0], inside.grad, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(gradients[1], outside.grad, rtol=1e-4, atol=1e-7)


def test_the_textbook_learns(study, corpus: Path) -> None:
    cbow, _, speed = study
    words, stream = cbow.read_stream(str(corpus), 1)
    contexts, targets = (tensor.numpy() for tensor in cbow.windows(stream, 2))
    book = speed.TextbookCBOW(np.bincount(stream, minlength=len(words)), size=16, negatives=5)
    losses = [book.step(contexts[i : i + 100], targets[i : i + 100], lr=0.02) for i in range(0, 4000, 100)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]  # 6 ln 2 at the start


def test_noise_is_compared_seed_by_seed(study, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Twice the same command: the second trains nothing, and says the same."""
    import study as noise_study

    pairs = tmp_path / "pairs.txt"
    pairs.write_text("cat\tdog\t9\npie\tcake\t8\ncow\tsoup\t1\npig\trice\t2\ndog\tpie\t1\n", encoding="utf-8")
    output = tmp_path / "study.jsonl"
    options = ["--data", str(corpus), "--similarity", str(pairs), "--output", str(output), "--seeds", "2"]
    noise_study.main([*options, "--powers", "0", "0.75", "--epochs", "1"])
    said, lines = capsys.readouterr().out, output.read_text()
    assert lines.count("\n") == 4
    assert said.splitlines()[0] == "| power | pairs | against 0 |"
    noise_study.main([*options, "--powers", "0", "0.75", "--epochs", "1"])
    assert (capsys.readouterr().out, output.read_text()) == (said, lines)
    results = [
        {"power": power, "scores": {"men": score}}
        for power, scores in ((0.0, [10.0, 12.0]), (1.0, [13.0, 17.0]))
        for score in scores
    ]
    last = noise_study.table(results).splitlines()[-1]
    assert last == "| 1 | 15.00 ± 2.83 | +4.00 [-8.71, +16.71] |"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("cbow", ["--data", "none.txt"], "error: none.txt: no such file; --data needs a text file"),
        ("cbow", ["--data", "TEXT", "--window", "9999"], "error: --window is 9999, expected 1 to"),
        (
            "evaluate_vectors",
            ["--vectors", "none.npz"],
            "error: none.npz: no such file; --vectors needs what cbow.py wrote",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(
    study, corpus: Path, capsys: pytest.CaptureFixture, script: str, arguments: list[str], message: str
) -> None:
    arguments = [str(corpus) if argument == "TEXT" else argument for argument in arguments]
    assert run({"cbow": study[0], "evaluate_vectors": study[1]}[script].main, arguments) in (1, 2)
    assert capsys.readouterr().err.startswith(message)


def test_a_wrong_line_of_ratings_is_named(study, tmp_path: Path) -> None:
    from simcse.errors import DataError

    _, evaluate_vectors, _ = study
    path = tmp_path / "pairs.txt"
    path.write_text("a\tb\t1\na b 2\n")
    with pytest.raises(DataError, match=r"pairs\.txt:2: found 1 columns, expected 3"):
        evaluate_vectors.similarity(evaluate_vectors.Words(["a", "b"], np.eye(2)), str(path))
