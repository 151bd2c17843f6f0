"""Results show themselves in a line, as a table in a notebook, and as a picture."""

import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import toy_dataset

from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.analysis.explanation import explain
from onelayer.config import COURSEWORK, SourceConfig, SplitConfig, TrainConfig
from onelayer.data import split
from onelayer.drawing import html_table
from onelayer.runs import training as runs
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.train import train

CONFIG = replace(COURSEWORK, epochs=3, l2=0.1)
WILD = ('<script>alert("1")</script>', "a & b", "</table>", "d")


class Cells(HTMLParser):
    """The texts of a caption and of the rows of a table, and the tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.caption, self.rows = set(), "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.within = tag

    def handle_data(self, data):
        if self.within == "p":
            self.caption += data.strip()
        elif self.within in ("td", "th"):
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def splits():
    return split(replace(toy_dataset(), class_names=WILD, name="<i>toy"), SplitConfig())


@pytest.fixture(scope="module")
def result(splits):
    return train(splits, CONFIG)


def shown(thing):
    cells = Cells(thing._repr_html_())
    # No name has made another tag.
    assert cells.tags - {"img"} == {"p", "table", "thead", "tbody", "tr", "th", "td"}
    return cells


def test_a_data_set_counts_its_classes(splits):
    dataset = splits.dataset
    assert repr(dataset) == "<Dataset <i>toy: 300 rows of 60 numbers, 4 classes>"
    counts = [str((dataset.labels == k).sum()) for k in range(4)]
    assert shown(dataset).caption == "<i>toy: 300 rows of 60 numbers, 4 classes"
    assert shown(dataset).rows == [["", "rows"], *map(list, zip(WILD, counts, strict=True))]
    halves = replace(dataset, parts={"train": slice(0, 200), "test": slice(200, 300)})
    tests = [(dataset.labels[200:] == k).sum() for k in range(4)]
    assert shown(halves).rows[0] == ["", "train", "test", "all"]
    assert [[int(cell) for cell in row[1:]] for row in shown(halves).rows[1:]] == [
        [int(count) - test, test, int(count)] for count, test in zip(counts, tests, strict=True)
    ]


def test_a_result_shows_its_scores(result):
    scores = result.scores
    rows = [[name, f"{of.loss:.4f}", f"{of.cost:.4f}", f"{100 * of.accuracy:.2f} %"] for name, of in scores.items()]
    assert len(rows) == 3
    assert rows[0][1] != rows[0][2]
    assert shown(result).rows == [["", "loss (nats)", "cost (nats)", "accuracy"], *rows]
    assert shown(result).caption == f"3 epochs ({result.backend})"
    accuracies = ", ".join(f"{row[0]} {row[3]}" for row in rows)
    assert repr(result) == f"<TrainingResult of 3 epochs ({result.backend}): {accuracies}>"


def test_an_evaluation_shows_its_classes_and_draws_its_confusion(splits, result):
    found = evaluate(result.model, splits.test)
    table = shown(found)
    right = found.labels == found.predictions
    loss, accuracy = (found.estimates[name].in_words() for name in ("loss", "accuracy"))
    assert accuracy.startswith(f"{100 * right.mean():.0f} % (")
    line = f"<i>toy, test: 60 rows, loss {loss}, accuracy {accuracy}"
    assert repr(found) == f"<Evaluation of {line}>"
    assert table.caption.startswith(f"<i>toy, test: 60 rows: accuracy {accuracy}, balanced accuracy ")
    assert table.caption.endswith("; 95 % intervals in brackets")
    assert table.rows[0] == ["", "rows", "precision", "interval", "recall", "interval", "F1", "interval"]
    for k, row in enumerate(table.rows[1:]):
        rows = found.labels == k
        assert row[:2] == [WILD[k], str(rows.sum())]
        assert row[4] == f"{100 * right[rows].mean():.0f} %"
    assert len({row[4] for row in table.rows}) > 2
    figure = found.draw()
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert any(text.replace("\n", " ") == line for text in texts)
    (image,) = (image for axes in figure.axes for image in axes.images if image.get_array().shape == (4, 4))
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (found.labels, found.predictions), 1)
    assert np.allclose(image.get_array(), confusion / confusion.sum(axis=1, keepdims=True))


def test_an_evaluation_without_names_numbers_its_classes():
    found = Evaluation(0.5, np.array([0, 0, 2]), np.array([0, 1, 2]), np.eye(3))
    assert [row[0] for row in shown(found).rows] == ["", "0", "1", "2"]
    assert shown(found).rows[2][:6] == ["1", "0", "0 %", "0 to 79", "-", "-"]


def test_a_run_shows_its_scores_or_what_it_lacks(tmp_path, splits, result):
    run = Run.create(tmp_path / "a & b")
    plan = Plan(CONFIG, SplitConfig(), "toy", splits.dataset.fingerprint)
    run.write_checkpoint(plan, result.state)
    lacking = Cells(run._repr_html_())
    assert lacking.caption.startswith(f"{run.path} is not complete; go on with: onelayer resume")
    assert (lacking.tags, lacking.rows) == ({"p"}, [])
    runs.resume(run, splits)
    assert shown(run).rows == shown(result).rows
    assert shown(run).caption == f"{run.path}: {CONFIG.in_words()}"


def test_short_words_for_what_holds_arrays(splits, result):
    assert repr(splits) == "<Splits of <i>toy, protocol stratified: 180 train, 60 validation, 60 test rows>"
    assert repr(splits.test) == "<Split test of <i>toy: 60 rows>"
    found = evaluate(result.model, splits.test).reliability(5)
    error = f"{100 * found.expected_calibration_error:.2f} %"
    assert repr(found) == f"<Reliability in 5 bins: expected calibration error {error}>"
    assert repr(result.state) == "<TrainingState after 3 epochs>"
    assert repr(result.model) == "<Model of 60 features and 4 classes, softmax>"


def test_everything_public_says_in_a_line_what_it_is(splits, result, tmp_path):
    layer = result.model.layer
    assert repr(layer) == "<SoftmaxLayer of 60 features and 4 classes, softmax, float32>"
    assert repr(result.model.standardizer) == "<Standardizer of 60 features>"
    assert repr(Run(tmp_path)) == f"<Run {tmp_path}>"
    row = splits.test.rows(slice(0, 1))[0]
    P = result.model.probabilities(row[None])[0]
    first, second = np.argsort(-P)[:2]
    shares = ", ".join(f"{k} with {100 * P[k]:.2f} %" for k in (first, second))
    assert repr(explain(result.model, row, top=2)) == f"<Explanation of the classes {shares}>"
    assert repr(TrainConfig()) == "TrainConfig()"
    for config in (TrainConfig(learning_rate=0.05, keep="last"), SplitConfig(test_size=0.5), SourceConfig(coarse=True)):
        assert eval(repr(config)) == config  # noqa: S307
    assert repr(TrainConfig(learning_rate=0.05, keep="last")) == "TrainConfig(learning_rate=0.05, keep='last')"
    public = [splits, *splits, splits.dataset, result, result.state, result.kept, result.model, result.model.features]
    assert all(len(repr(thing)) < 400 and "\n" not in repr(thing) for thing in public)


def test_a_long_table_is_cut():
    rows = [(str(number), "x") for number in range(1234)]
    table = Cells(html_table("", ["column"], rows))
    assert table.rows[1:] == [*map(list, rows[:100]), ["... and 1,134 more", ""]]
    assert Cells(html_table("", ["column"], rows[:100])).rows[1:] == [*map(list, rows[:100])]


def test_matplotlib_is_loaded_by_the_first_picture_only():
    code = """
import sys, numpy as np, onelayer
found = onelayer.Evaluation(0.5, np.array([0, 1]), np.array([0, 1]), np.eye(2))
repr(found), found._repr_html_()
assert "matplotlib" not in sys.modules
found.draw()
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
