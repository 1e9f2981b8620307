"""Figures hold the numbers they were given; files are whole, readable and the same each time."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from simcse.errors import ConfigError, DataError
from simcse.evaluation.plots import style
from simcse.evaluation.plots.runs import has_trajectory, learning_curves, read_run, trajectory
from simcse.evaluation.plots.spaces import Place, alignment_uniformity, cosine_distributions, spectra
from simcse.evaluation.plots.texts import corpus_map, similarity_heat_map
from simcse.vectors import principal_plane


def write_log(folder: Path, start: float = 70.0, *, dev: bool = True) -> Path:
    folder.mkdir(parents=True)
    with (folder / "log.jsonl").open("w") as file:
        for step in (0, 10, 20, 30):
            if step:
                file.write(json.dumps({"step": step, "loss": 1 / step}) + "\n")
            if dev:
                score = {"spearman": start + (step if step < 30 else 5), "alignment": 0.2 + step / 100}
                file.write(json.dumps({"step": step, "dev": {**score, "uniformity": -1 - step / 10}}) + "\n")
    return folder


def unit(rows: int, d: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def words(figure: Figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def overlaps(figure: Figure, texts: list[str]) -> int:
    from matplotlib.text import Annotation

    figure.draw_without_rendering()
    boxes = [note.get_window_extent() for note in figure.findobj(Annotation) if note.get_text() in texts]
    assert len(boxes) == len(texts)
    return sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_learning_curves_show_loss_score_and_best(tmp_path: Path) -> None:
    figure = learning_curves([read_run(write_log(tmp_path / "a")), read_run(write_log(tmp_path / "b", 60.0))])
    loss, score = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 0.1], [20, 0.05], [30, 1 / 30]]
    assert score.lines[0].get_ydata().tolist() == [70, 80, 90, 75]
    assert score.lines[1].get_xydata().tolist() == [[20, 90]]  # the dot at the best
    assert loss.lines[0].get_color() != loss.lines[1].get_color()
    assert {"step", "loss (nats)", "Spearman × 100", "a", "b"} <= set(words(figure))


def test_seeds_of_a_run_share_a_colour_and_one_name(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_log(tmp_path / "run" / f"seed-{seed}", dev=False)
    run = read_run(tmp_path / "run")
    assert len(run.logs) == 2
    [loss] = learning_curves([run]).axes  # nothing was evaluated: no second panel
    assert len({line.get_color() for line in loss.lines}) == 1


def test_a_trajectory_is_coloured_by_score_on_one_scale(tmp_path: Path) -> None:
    figure = trajectory([read_run(write_log(tmp_path / "a")), read_run(write_log(tmp_path / "b", 60.0))])
    points = figure.axes[0].collections
    np.testing.assert_allclose(points[0].get_offsets(), [[-1, 0.2], [-2, 0.3], [-3, 0.4], [-4, 0.5]])
    assert points[0].get_array().tolist() == [70, 80, 90, 75]
    assert points[1].get_clim() == points[0].get_clim() == (60, 90)
    assert {"uniformity (lower is better)", "alignment (lower is better)"} <= set(words(figure))


def test_names_of_runs_that_end_at_one_place_stay_apart(tmp_path: Path) -> None:
    """In a legend, in fewer columns where four are wider than the figure."""
    runs = [read_run(write_log(tmp_path / f"a-run-of-a-long-name-{i}")) for i in range(5)]
    for figure in (trajectory(runs), learning_curves(runs)):
        figure.draw_without_rendering()
        [legend] = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [run.name for run in runs]
        assert legend.get_window_extent().x0 >= 0
        assert legend.get_window_extent().x1 <= figure.bbox.width


def test_names_in_the_scatter_do_not_meet(tmp_path: Path) -> None:
    near = [Place(f"model {i}", 0.2 + 0.002 * i, -2 - 0.01 * i, 70.0 + i) for i in range(4)]
    figure = alignment_uniformity(near)
    assert figure.axes[0].collections[0].get_array().tolist() == [70, 71, 72, 73]
    assert overlaps(figure, [f"model {i}  {70 + i}.0" for i in range(4)]) == 0


def test_cosine_distributions_mark_the_mean_of_each_bin() -> None:
    """Counts in bins of -1..1 whose middles are -0.75, -0.25, 0.25, 0.75: means by hand."""
    figure = cosine_distributions({"m": {"0-1": [1, 1, 0, 0], "4-5": [0, 0, 1, 3]}})
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_color() == "black"]
    assert marks == pytest.approx([-0.5, 0.625])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0–1", "4–5"]


def test_a_bin_without_pairs_leaves_its_row_empty() -> None:
    figure = cosine_distributions({"m": {"0-1": [0, 0], "1-2": [1, 1]}})
    assert len(figure.axes[0].collections) == 1


def test_cosines_fill_their_panels_and_ticks_stand_apart() -> None:
    """No cosine below 0: the axis begins there, and what lies in the last bin reaches to its edge at 1."""
    counts = [0] * 25 + [1] * 25
    figure = cosine_distributions({"a": {"0-1": counts, "1-2": counts}, "b": {"0-1": counts, "1-2": [0] * 50}})
    figure.draw_without_rendering()
    left, right = figure.axes
    assert left.get_xlim() == (0, 1)
    assert left.lines[0].get_xdata()[-1] == 1
    ticks = [
        label.get_window_extent() for axis in (left, right) for label in axis.get_xticklabels() if label.get_text()
    ]
    on_show = [box for box in ticks if box.x1 > box.x0]
    assert sum(a.overlaps(b) for i, a in enumerate(on_show) for b in on_show[:i]) == 0
    below = cosine_distributions({"a": {"0-1": [0] * 20 + [1] * 30}})
    assert below.axes[0].get_xlim() == (-0.5, 1)


def test_spectra_are_relative_to_the_largest() -> None:
    figure = spectra({"a": [4.0, 2.0, 1.0], "b": np.array([10.0, 10.0])})
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[1, 0.5, 0.25], [1, 1]]
    many = spectra({str(number): [3.0, 2.0, 1.0] for number in range(12)}).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in many}) == 12
    with pytest.raises(DataError, match="b: found no positive singular value"):
        spectra({"b": [0.0]})


def test_the_heat_map_says_the_cosines() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8], [-0.001, -1]])
    figure = similarity_heat_map(["one", "two", "three"], vectors)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), np.clip(vectors @ vectors.T, -1, 1))
    assert {".60", "−.80", ".00"} <= set(words(figure))
    with pytest.raises(DataError, match="found 1 sentences for a heat map, expected 2 to 40"):
        similarity_heat_map(["one"], vectors[:1])


def test_long_sentences_stand_whole_beside_the_heat_map() -> None:
    sentences = ["The quick brown fox jumps over the lazy dog and on", "short", "w" * 60]
    for n in (2, 3):
        figure = similarity_heat_map(sentences[:n], unit(n, 8))
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        assert min(box.x0 for box in boxes) >= 0


def test_the_map_is_the_principal_plane() -> None:
    """Against sklearn up to the sign, and each share of the variance."""
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=(40, 6)) * np.array([5, 3, 1, 1, 0.5, 0.1])
    plane = principal_plane(vectors)
    at = plane(vectors)
    reference = PCA(2, svd_solver="full").fit(vectors)
    np.testing.assert_allclose(np.abs(at), np.abs(reference.transform(vectors)), atol=1e-9)
    np.testing.assert_allclose(plane.shares, reference.explained_variance_ratio_)
    figure = corpus_map([f"text number {i}" for i in range(40)], vectors)
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets(), at)
    shown = [text for text in words(figure) if text.startswith("text number")]
    assert len(shown) == 14
    assert overlaps(figure, shown) == 0


@pytest.mark.parametrize("vectors", [np.ones((2, 4)), np.ones((5, 1)), np.ones((5, 4))])
def test_a_map_of_nothing_is_refused(vectors: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected at least|all 5 vectors are equal"):
        corpus_map(["a text"] * len(vectors), vectors)


def test_files_are_readable_and_the_same_each_time(tmp_path: Path) -> None:
    def draw() -> Figure:
        return spectra({"a": [3.0, 2.0, 1.0]})

    first, again = style.save(draw(), tmp_path / "a"), style.save(draw(), tmp_path / "b")
    assert [path.name for path in first] == ["a.png", "a.svg"]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(first[1]).getroot().tag.endswith("svg")
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(ConfigError, match="formats: found 'jpg', expected png or svg"):
        style.save(draw(), tmp_path / "c", ["jpg"])


def test_drawing_leaves_the_users_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    spectra({"a": [3.0, 2.0, 1.0]})
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.style", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'simcse-kit\[plots\]'"):
        spectra({"a": [1.0]})


def test_bad_logs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no log\.jsonl there"):
        read_run(tmp_path)
    log = write_log(tmp_path / "a") / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 4')  # killed within a line: the rest is good
    assert read_run(tmp_path / "a").logs[0].evaluated == [0, 10, 20, 30]
    log.write_text("nonsense\n" + whole)
    with pytest.raises(DataError, match=r"log\.jsonl:1: no JSON object"):
        read_run(tmp_path / "a")
    wrong = [b"\xff", b"[1]", b"[" * 9999, b"9" * 5000, *(
        b'{"step": %s' % rest
        for rest in (b"null}", b'1, "loss": "x"}', b'1, "dev": [1]}', b'1, "dev": {}}', b'1, "dev": {"spearman": {}}}')
    )]  # fmt: skip
    for line in wrong:
        log.write_bytes(line + b"\n" + whole.encode())
        with pytest.raises(DataError, match=r"log\.jsonl:1: "):
            read_run(tmp_path / "a")
    log.write_text("")
    with pytest.raises(DataError, match="nothing is logged yet"):
        read_run(tmp_path / "a")
    assert has_trajectory(read_run(write_log(tmp_path / "b")))
    assert not has_trajectory(read_run(write_log(tmp_path / "c", dev=False)))
