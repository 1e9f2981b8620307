"""The knowledge-graph study on a tiny graph whose missing links are known."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from simcse.console import run

STUDY = Path(__file__).parents[2] / "examples" / "knowledge_graph"
MODULES = ("graph", "models", "link_prediction", "study")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch):
    """The modules of the study, imported as its script imports them."""
    monkeypatch.syspath_prepend(STUDY)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import graph
    import link_prediction
    import models

    yield graph, models, link_prediction
    for name in MODULES:
        sys.modules.pop(name, None)


def write(path: Path, triples: Iterable[tuple[object, object, object]]) -> None:
    path.write_text("".join("\t".join(map(str, triple)) + "\n" for triple in triples), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ring of 12: +1, +2 and +3 around it; some +3 links are missing in training but follow from the others."""
    triples = [(f"e{i}", f"plus{k}", f"e{(i + k) % 12}") for i, k in itertools.product(range(12), (1, 2, 3))]
    held_out = {("e0", "plus3", "e3"), ("e5", "plus3", "e8"), ("e8", "plus3", "e11"), ("e10", "plus3", "e1")}
    splits = {
        "train": [triple for triple in triples if triple not in held_out],
        "valid": sorted(held_out)[:2],
        "test": sorted(held_out)[2:],
    }
    for name, rows in splits.items():
        write(tmp_path / f"{name}.txt", rows)
    return tmp_path


def test_graph_has_reciprocal_triples_and_counts(study, folder: Path) -> None:
    graph, _, _ = study
    found = graph.read_graph(str(folder))
    assert (found.entities, found.relations) == (12, 6)
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 64, "valid": 4, "test": 4}
    forth, back = found.splits["train"][:32], found.splits["train"][32:]
    assert torch.equal(forth[:, [2, 0]], back[:, [0, 2]])
    assert torch.equal(forth[:, 1] + 3, back[:, 1])
    train = [tuple(row) for row in found.splits["train"].tolist()]
    assert found.query_counts().tolist() == [sum(t[:2] == row[:2] for t in train) for row in train]
    assert found.answer_counts().tolist() == [sum(t[2] == entity for t in train) for entity in range(12)]


def test_true_answers_are_those_of_all_splits(study, folder: Path) -> None:
    graph, _, _ = study
    found = graph.read_graph(str(folder))
    everything = {tuple(row) for rows in found.splits.values() for row in rows.tolist()}
    queries = torch.cat([found.splits["test"], found.splits["train"][:7]])
    rows, columns = found.true_answers(queries)
    expected = {(i, t) for i, (h, r, _) in enumerate(queries.tolist()) for a, b, t in everything if (a, b) == (h, r)}
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


@pytest.mark.parametrize("name", ["ComplEx", "DistMult", "RESCAL", "RotatE", "TransE", "TuckER"])
def test_all_scores_are_the_scores_of_each(study, name: str) -> None:
    """The matrix product against the formula, one triple at a time."""
    _, models, _ = study
    torch.manual_seed(0)
    model = models.MODELS[name](7, 4, 6).double().eval()
    entity, relation = torch.tensor([0, 3, 6]), torch.tensor([1, 0, 3])
    query = model.query(entity, relation)
    whole = model.score(query, model.entity)
    for column in range(7):
        torch.testing.assert_close(model.score_own(query, model.entity[column].expand(3, 6)), whole[:, column])

    def formula(h: torch.Tensor, r: int, t: torch.Tensor) -> torch.Tensor:
        w = model.relation[r]
        if name in ("ComplEx", "RotatE"):
            h, t = torch.complex(h[:3], h[3:]), torch.complex(t[:3], t[3:])
        if name == "ComplEx":
            return (h * torch.complex(w[:3], w[3:]) * t.conj()).sum().real
        if name == "RotatE":
            return -(h * torch.exp(1j * w) - t).abs().square().sum().sqrt()
        if name == "TransE":
            return -(h + w - t).norm()
        if name == "DistMult":
            return (h * w * t).sum()
        matrix = w if name == "RESCAL" else sum(w[k] * model.core[k].view(6, 6) for k in range(model.shared))
        return h @ matrix @ t

    expected = [[formula(model.entity[h], r, model.entity[t]) for t in range(7)] for h, r in [(0, 1), (3, 0), (6, 3)]]
    torch.testing.assert_close(whole, torch.stack([torch.stack(row) for row in expected]))


def test_closeness_has_the_right_slope(study) -> None:
    _, models, _ = study
    torch.manual_seed(0)
    one, other = (torch.randn(rows, 3, dtype=torch.float64, requires_grad=True) for rows in (4, 5))
    torch.testing.assert_close(models.Closeness.apply(one, other), -torch.cdist(one, other))
    assert torch.autograd.gradcheck(models.Closeness.apply, (one, other))


def test_rows_that_share_a_query_hold_every_triple_once(study, folder: Path) -> None:
    graph, _, train = study
    with (folder / "train.txt").open("a") as file:
        file.writelines(f"e0\tplus1\te{i}\n" for i in range(2, 12))  # 11 answers: rows of 8, 2 and 1
    found = graph.read_graph(str(folder))
    groups = found.shared_queries()
    assert [group.shape[1] for group in groups] == [8, 4, 2, 1]
    assert torch.cat([group.flatten() for group in groups]).sort().values.tolist() == list(range(84))
    ids = found.query_ids(found.splits["train"])
    for group in groups:
        assert bool((ids[group] == ids[group[:, :1]]).all())
    asked = ids.new_tensor([0 * 6 + 0])  # e0, plus1
    assert [int(torch.isin(ids[group[:, 0]], asked).sum()) for group in groups] == [1, 0, 1, 1]
    config = train.KGConfig(batch_size=10)
    batches = list(train.batches(found, config, shared=True))
    assert len(batches) == config.steps(found) == 9
    seen = torch.cat([group.flatten() for batch in batches for group in batch])
    assert seen.sort().values.tolist() == list(range(84))


@pytest.mark.parametrize("objective", ["sce", "sce+ls", "sce+bc"])
@pytest.mark.parametrize("name", ["ComplEx", "RotatE", "TuckER"])
def test_shared_rows_have_the_loss_and_gradient_of_triples(
    study, monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, objective: str
) -> None:
    """By blocks, and with one softmax for several answers: against the objective over one row a triple."""
    graph, _, train = study
    with (folder / "train.txt").open("a") as file:
        file.writelines(f"e{i}\tplus1\te{j}\n" for i in range(4) for j in range(6, 11))
    found = graph.read_graph(str(folder))
    torch.manual_seed(0)
    config = train.KGConfig(model=name, objective=objective, size=6, dropout=0.0, batch_size=30)
    model, loss, _ = train.build(config, found)
    model.double()
    triples = found.splits["train"]
    weight = torch.rand(len(triples), dtype=torch.float64)
    batch = next(train.batches(found, config, shared=True))
    assert max(group.shape[1] for group in batch) > 1

    rows = torch.cat([group.flatten() for group in batch])
    query = model.query(*triples[rows, :2].unbind(1))
    whole = loss(train.ContrastiveLogits(model.score(query, model.entity), triples[rows, 2], correction=weight[rows]))
    parameters = [weight for name, weight in model.named_parameters() if name != "offset"]  # which a softmax ignores
    expected = torch.autograd.grad(whole, parameters)
    monkeypatch.setattr(train, "SCORES_AT_A_TIME", 4 * 12)  # four queries
    total = train.against_all(model, triples, weight, batch, loss)
    assert total.item() == pytest.approx(whole.item(), rel=1e-6)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_samples_never_count_as_their_own_answer(study, folder: Path) -> None:
    """All but one of the entities are drawn, so nearly every answer is among the samples: only it is masked out."""
    graph, models, train = study
    found = graph.read_graph(str(folder))
    torch.manual_seed(0)
    model = models.TransE(12, 6, 4).double()
    triples = found.splits["train"]
    noise = train.Uniform(12, 11)
    seen = []

    def objective(scores):
        seen.append(scores)
        return scores.logits.sum()

    train.against_noise(model, triples, noise, objective)
    valid = seen[0].valid
    assert valid[:, 0].all()
    hits = (seen[0].logits[:, 1:] - seen[0].logits[:, :1]).abs() < 1e-12
    assert hits.any(1).sum() > 50
    assert torch.equal(valid[:, 1:], ~hits)


@pytest.mark.parametrize(("objective", "weight"), [("ns-uniform", 6), ("ns-frequency", 6), ("sans", 1)])
@pytest.mark.parametrize("name", ["RESCAL", "TransE"])
def test_negatives_start_at_even_odds_with_the_answer(
    study, folder: Path, name: str, objective: str, weight: int
) -> None:
    """The mean log-odds of any entity, by the formula; and the offset is learned with the rest."""
    graph, _, train = study
    found = graph.read_graph(str(folder))
    torch.manual_seed(0)
    config = train.KGConfig(model=name, objective=objective, size=6, dropout=0.0, negatives=6)
    model, loss, noise = train.build(config, found)
    triples = found.splits["train"]
    scores = model.score(model.query(*triples[:, :2].unbind(1)), model.entity)
    assert (scores + model.offset).mean().item() == pytest.approx(-math.log(weight), abs=1e-5)
    train.against_noise(model, triples, noise, loss)
    assert model.offset.grad.abs() > 1e-4


def test_filtered_ranks_by_hand(study, folder: Path) -> None:
    """Known answers are no competitors, and ties count half: compared with a loop over candidates."""
    graph, models, train = study
    found = graph.read_graph(str(folder))
    torch.manual_seed(0)
    model = models.DistMult(12, 6, 4).eval()
    with torch.no_grad():
        model.entity[5] = model.entity[4]  # a tie
    everything = {tuple(row) for rows in found.splits.values() for row in rows.tolist()}
    ranks = []
    for h, r, t in found.splits["train"].tolist():
        scores = model.score(model.query(torch.tensor([h]), torch.tensor([r])), model.entity).tolist()[0]
        others = [c for c in range(12) if c != t and (h, r, c) not in everything]
        better, equal = (sum(test(scores[c], scores[t]) for c in others) for test in (float.__gt__, float.__eq__))
        ranks.append(1 + better + equal / 2)
    result = train.evaluate(model, found, "train", batch_size=10)
    assert result["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    for k in (1, 3, 10):
        assert result[f"hits@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))


@pytest.mark.parametrize("objective", ["sce", "sce+ls", "sce+bc", "ns-uniform", "ns-frequency", "sans"])
def test_every_objective_finds_the_missing_links(study, folder: Path, objective: str) -> None:
    """RotatE on a ring: a rotation by three steps follows from those by one and two."""
    _, _, train = study
    output = folder / "results.jsonl"
    options = {"size": 16, "dropout": 0, "negatives": 6, "batch_size": 16, "lr": 0.3, "epochs": 60}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    train.main(
        ["--data", str(folder), "--model", "RotatE", "--objective", objective, "--output", str(output), *arguments]
    )
    result = json.loads(output.read_text())
    assert result["objective"] == objective
    assert result["mrr"] > 0.6  # by chance about 0.3


RING = [(i, k, (i + k) % 12) for i in range(12) for k in (1, 2, 3)]
CHAIN = [(i, k, i + k) for i in range(12) for k in (1, 2, 3) if i + k < 12]  # steps of a ring cannot be translations
SWAPS = [(i, k, i ^ k) for i in range(8) for k in (1, 2, 4)]  # DistMult cannot tell h from t


@pytest.mark.parametrize(
    ("name", "triples"),
    [("ComplEx", RING), ("DistMult", SWAPS), ("RESCAL", RING), ("RotatE", RING), ("TransE", CHAIN), ("TuckER", RING)],
)
def test_every_model_learns_a_graph_of_its_kind(
    study, tmp_path: Path, name: str, triples: list[tuple[int, int, int]]
) -> None:
    graph, _, train = study
    for split in ("train", "valid", "test"):
        write(tmp_path / f"{split}.txt", triples)
    found = graph.read_graph(str(tmp_path))
    config = train.KGConfig(data=str(tmp_path), model=name, size=16, dropout=0.0, batch_size=16, lr=0.3, epochs=60)
    assert train.evaluate(train.train(config, found), found, "train")["mrr"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "ComplX"], "error: --model is 'ComplX', expected one of ComplEx, DistMult"),
        (["--objective", "nce"], "error: --objective is 'nce', expected one of sce, sce+ls"),
        (["--size", "7"], "error: --size is 7, expected an even number"),
        (["--objective", "sans", "--negatives", "50"], "error: negatives a row: k is 50, expected 1 to 11"),
        (["--data", "nowhere"], "error: nowhere/train.txt: no such file; --data needs a folder"),
    ],
)
def test_mistakes_are_told_in_one_line(
    study, folder: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert run(study[2].main, ["--data", str(folder), *arguments]) in (1, 2)
    assert capsys.readouterr().err.startswith(message)


def test_the_study_goes_on_where_it_stopped(study, folder: Path, capsys: pytest.CaptureFixture) -> None:
    import study as whole

    output = folder / "results.jsonl"
    arguments = ["--data", str(folder), "--output", str(output), "--size", "8", "--epochs", "2", "--models", "TransE"]
    whole.main([*arguments, "--objectives", "sce"])
    first = output.read_text()
    capsys.readouterr()
    whole.main([*arguments, "--objectives", "sce", "sce+ls"])
    assert output.read_text().startswith(first)
    assert [json.loads(line)["objective"] for line in output.read_text().splitlines()] == ["sce", "sce+ls"]
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [["| TransE", "sce"], ["| TransE", "sce+ls"]]
    assert sum("**" in row for row in rows) >= 1
    output.write_text("{")
    assert run(whole.main, arguments) == 1
    assert "results.jsonl:1: no JSON" in capsys.readouterr().err


def test_a_wrong_line_is_named(study, folder: Path) -> None:
    from simcse.errors import DataError

    graph, _, _ = study
    with (folder / "valid.txt").open("a") as file:
        file.write("a b c\n")
    with pytest.raises(DataError, match=r"valid\.txt:3: 1 fields, expected 3"):
        graph.read_graph(str(folder))
