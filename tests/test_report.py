"""The report holds what the runs hold, and needs nothing from elsewhere."""

import base64
import hashlib
import html
import io
import json
import re
import shlex
import shutil
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line, toy_dataset, turn_training_round
from PIL import Image
from reported import CONFIG, RATES, page_of, toy_run, toy_sweep
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support
from sklearn.neighbors import NearestCentroid

from onelayer.analysis.evaluation import evaluate
from onelayer.analysis.templates import picture, stretched
from onelayer.config import COURSEWORK, SplitConfig
from onelayer.data import load_splits
from onelayer.data.protocols import split
from onelayer.errors import RunError
from onelayer.experiments.comparison import compare_answers
from onelayer.experiments.sweep import results
from onelayer.files import write_json
from onelayer.report.facts import gradients, scores
from onelayer.report.html import _unbroken, render
from onelayer.report.opening import course
from onelayer.report.subject import read_subject
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import start
from onelayer.training.state import Problem, learnt

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=http://x.invalid/ onerror=alert(2)>',
    "{{ 7 * 7 }}",
    "&amp; ' $\\no$",
)
GOLDEN = Path(__file__).parent / "golden"
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The elements of a page, each with its attributes, its text, and those it lies in."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        assert not self._open, f"{self._open} are not closed"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "within": [e["tag"] for e in self._open], **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", "within": [], **dict(attrs)})

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]

    @property
    def headings(self):
        return [element["text"] for element in self.all("h2")]


def pixels(source):
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as image:
        return np.asarray(image)


@pytest.fixture(scope="module", autouse=True)
def _gradients_once():
    """Check the gradients once for the same rows, of which most reports here are."""
    found = {}

    def once(dataset):
        if dataset.fingerprint not in found:
            found[dataset.fingerprint] = gradients(dataset)
        return found[dataset.fingerprint]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onelayer.report.html.gradients", once)
        yield


@pytest.fixture
def charts():
    """Draw the charts of this test's pages; most tests are of words."""


@pytest.fixture(autouse=True)
def _frames(request, monkeypatch):
    """Leave the charts of a page empty, as drawing them takes half of its time."""

    def frame(figure, alt):
        return f'<svg class="chart" role="img" aria-label="{html.escape(alt)}"></svg>'

    for module in () if "charts" in request.fixturenames else ("answers", "pictures"):
        monkeypatch.setattr(f"onelayer.report.{module}.svg", frame)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The page of a run, its splits, and its model."""
    path = tmp_path_factory.mktemp("toy") / "run"
    splits = toy_run(path)
    return page_of(path, splits), splits, Run.open(path).model


def test_nothing_comes_from_elsewhere_and_no_other_script_may_run(toy):
    text, _, _ = toy
    page = Page(text)
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "url(http" not in text
    for element in page.elements:
        for name in ("src", "href"):
            assert element.get(name, "#").startswith(("#", "data:")), element
    (policy,) = (element["content"] for element in page.all("meta") if "http-equiv" in element)
    (script,) = (element["text"] for element in page.all("script"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy


def test_every_picture_has_words_every_table_a_caption_and_every_link_a_target(toy):
    page = Page(toy[0])
    ids = Counter(element["id"] for element in page.elements if "id" in element)
    assert max(ids.values()) == 1
    assert all(len(image["alt"]) > 5 for image in page.all("img"))
    drawings = page.all("svg")
    assert [drawing["aria-label"].split()[0] for drawing in drawings if "epoch" in drawing["aria-label"]][:2] == [
        "Loss",
        "Cost",
    ]
    assert all(len(drawing["aria-label"]) > 30 for drawing in drawings)
    assert len(page.all("caption")) == len(page.all("table"))
    links = [element["href"][1:] for element in page.all("a", "use") if "href" in element]
    assert len(links) > 10
    assert set(links) <= ids.keys()
    levels = [int(element["tag"][1]) for element in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_confusion_counts_and_its_images_are_those_of_the_test_rows(toy):
    text, splits, model = toy
    page = Page(text)
    found = evaluate(model, splits.test)
    assert 0.3 < found.accuracy < 1
    shares = 100 * found.confusion / found.confusion.sum(axis=1, keepdims=True)
    cells = {e["href"]: e for e in page.all("a") if e["href"].startswith("#cell-")}
    assert len(cells) == np.count_nonzero(found.confusion)
    for i, j in np.argwhere(found.confusion):
        assert cells[f"#cell-{i}-{j}"]["text"] == f"{shares[i, j]:.0f}"
        figure = page.elements.index(next(e for e in page.elements if e.get("id") == f"cell-{i}-{j}"))
        strip = next(e for e in page.elements[figure:] if e["tag"] == "img")
        behind = np.flatnonzero((found.labels == i) & (found.predictions == j))
        behind = sorted(behind, key=lambda row: -found.probabilities[row, j])[:6]
        images = [splits.test.rows(np.array([row])).reshape(3, 4, 5).transpose(1, 2, 0) for row in behind]
        assert np.array_equal(pixels(strip["src"]), np.concatenate(images, axis=1))
        truth, answer = model.class_names[i], model.class_names[j]
        words = f"{truth}, and classified so" if i == j else f"{truth}, taken for {answer}"
        assert strip["alt"].split(" of ", 1)[1] == words
    number = next(e["text"] for e in page.all("dd")).split()[0]
    assert float(number) == pytest.approx(100 * found.accuracy, abs=0.5)


def test_calibration_is_that_of_the_test_rows_in_words_too(toy):
    text, splits, model = toy
    P = model.probabilities(splits.test.rows(slice(None)))
    own = P[np.arange(len(P)), splits.test.labels]
    right = (P.argmax(axis=1) == splits.test.labels).mean()
    claimed = P.max(axis=1).mean()
    assert abs(claimed - right) > 0.01
    said = " ".join(text.split())
    found = re.search(r"the answers claim ([\d.]+) % on average and ([\d.]+) % are right", said)
    assert len({len(number.partition(".")[2]) for number in found.groups()}) == 1, "as many decimals"
    assert [float(number) for number in found.groups()] == pytest.approx([100 * claimed, 100 * right], abs=0.5)
    drawings = [e["aria-label"] for e in Page(text).all("svg")]
    words = f"answers of {found.group(1)} % mean confidence are right in {found.group(2)} %"
    assert any(words in drawing for drawing in drawings)
    below = f"median {100 * np.median(own):.1f} %, below 10 % for {100 * (own < 0.1).mean():.1f} % of the rows"
    assert any(below in drawing for drawing in drawings)


def test_each_class_has_its_figures(toy):
    text, splits, model = toy
    predictions = model.probabilities(splits.test.rows(slice(None))).argmax(axis=1)
    precision, recall, f1, rows = precision_recall_fscore_support(splits.test.labels, predictions)
    page = Page(text)
    cells = [e["text"] for e in page.all("th", "td")]
    for k, name in enumerate(model.class_names):
        at = max(place for place, cell in enumerate(cells) if cell == name)
        assert cells[at + 1] == str(rows[k])
        found = [
            float(re.match(r"([\d.]+)\xa0% \([\d.]+ to [\d.]+\)", cell).group(1)) for cell in cells[at + 2 : at + 5]
        ]
        assert found == pytest.approx([100 * recall[k], 100 * precision[k], 100 * f1[k]], abs=0.51)


def test_curves_say_where_they_are_lowest(tmp_path, charts):
    splits = toy_run(tmp_path / "run", replace(CONFIG, learning_rate=0.1, epochs=20, batch_size=20))
    history = Run.open(tmp_path / "run").read_checkpoint()[1].history
    drawings = [e["aria-label"] for e in Page(page_of(tmp_path / "run", splits)).all("svg")]
    for what in ("loss", "cost"):
        values = [getattr(record, f"validation_{what}") for record in history]
        lowest = min(range(20), key=values.__getitem__)
        assert 0 < lowest < 19
        words = f"validation from {values[0]:.4f} after the first to {values[-1]:.4f} after the last"
        words += f", lowest {values[lowest]:.4f} after epoch {lowest + 1}"
        assert any(d.startswith(f"{what.capitalize()} by epoch") and words in d for d in drawings)


def test_the_most_confident_mistakes_come_first(toy):
    text, splits, model = toy
    found = evaluate(model, splits.test)
    worst = max(
        (row for row in range(len(found.labels)) if found.labels[row] != found.predictions[row]),
        key=lambda row: found.probabilities[row].max(),
    )
    captions = [e["text"] for e in Page(text).all("figcaption") if "true: " in e["text"]]
    names = model.class_names
    assert captions[0] == (
        f"{names[found.predictions[worst]]}, {100 * found.probabilities[worst].max():.0f}\N{NO-BREAK SPACE}%"
        f"true: {names[found.labels[worst]]}"
    )


def test_templates_form_until_they_are_the_models(toy):
    page = Page(toy[0])
    name = toy[2].class_names[1]
    after = {e["alt"]: e["src"] for e in page.all("img") if e["alt"].startswith(f"template of {name}")}
    assert [words.removeprefix(f"template of {name}").strip() for words in after] == [
        "",
        "with the initial weights",
        *(f"after {n} epoch{'s' * (n != 1)}" for n in (1, 2, 5)),
    ]
    assert after[f"template of {name}"] == after[f"template of {name} after 5 epochs"]
    assert len(set(after.values())) == 4, "with the initial weights, and after 1, 2 and 5 epochs"
    template = pixels(after[f"template of {name}"])
    _, splits, model = toy
    rng = np.random.default_rng(CONFIG.seed)
    initial = (0.01 * rng.standard_normal((4, 60))).astype(np.float32).T  # each class's in one piece
    steps = len(splits.train) / CONFIG.batch_size
    shrunk = (1 - 2 * CONFIG.learning_rate * CONFIG.l2) ** (CONFIG.epochs * np.ceil(steps))
    initial[7] = 0  # a constant feature
    column = (model.layer.weights - shrunk * initial)[:, 1]
    drawn = 255 * np.clip(stretched(picture(column.reshape(3, 4, 5).astype(np.float64))), 0, 1)
    assert np.abs(template - drawn).max() < 1
    assert np.abs(pixels(after[f"template of {name} with the initial weights"]) - drawn).max() > 20
    assert "it ended with the same bits" in toy[0]


@pytest.mark.parametrize("name", ["weights", "bias"])
def test_a_run_that_ended_with_other_bits_is_not_said_to_have_the_same(tmp_path, name):
    splits = toy_run(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    model = run.model
    array = getattr(model.layer, name)
    array.flat[0] = np.nextafter(array.flat[0], np.float32(9))  # as another machine's sums may
    run.model_path.write_bytes(model.to_bytes())
    text = page_of(run.path, splits)
    assert "it ended with the same bits" not in text
    assert "this time it ended with slightly different weights, since the run was made elsewhere" in text


def test_hostile_names_are_words(tmp_path, charts):
    splits = toy_run(tmp_path / "run")
    dataset = replace(splits.dataset, class_names=HOSTILE, name=HOSTILE[0])
    splits = split(dataset, SplitConfig())
    plan = Plan(CONFIG, SplitConfig(), HOSTILE[1], dataset.fingerprint)
    start(Run.create(tmp_path / HOSTILE[0].replace("/", "")), plan, Problem.of(splits, plan.config))
    page = Page(page_of(tmp_path / HOSTILE[0].replace("/", ""), splits))
    assert len(page.all("script")) == 1
    assert not [e for e in page.elements if any(name.startswith("on") for name in e)]
    assert all(e["src"].startswith("data:") for e in page.all("img"))
    captions = [e["text"] for e in page.all("figcaption")]
    assert all(name in captions for name in HOSTILE)


def test_vectors_have_their_strongest_weights_instead_of_pictures(tmp_path):
    splits = toy_run(tmp_path / "run", image_shape=None, dtype="float32")
    page = Page(page_of(tmp_path / "run", splits))
    assert not page.all("img")
    headings = ["Loss", "Results", "Strongest weights", "Confusion", "Calibration", "Gradient check"]
    assert page.headings == [*headings, "Settings and data", "Reproduce"]
    model = Run.open(tmp_path / "run").model
    run = Run.open(tmp_path / "run")
    W, names = learnt(run.read_checkpoint()[1].last, CONFIG), model.class_names
    rows = [e["text"] for e in page.all("tr") if e["text"].startswith("feature ")]
    bars = [re.fullmatch(r"left: ([\d.]+)%; width: ([\d.]+)%", e["style"]).groups() for e in page.all("i")]
    strongest = [(j, k) for k in range(len(names)) for j in np.argsort(-np.abs(W[:, k]))[:10]]
    assert rows == [f"feature {j}{W[j, k]:+.5f}" for j, k in strongest]
    assert 0.001 < np.abs(W).max() < 0.01, "the test knows how many decimals there are"
    for (left, width), (j, k) in zip(bars, strongest, strict=True):
        part = 50 * W[j, k] / np.abs(W).max()
        assert (float(left), float(width)) == pytest.approx((50 + min(part, 0), abs(part)), abs=0.051)
    assert 7 not in {j for j, _ in strongest}, "it is constant"
    says = "A bar shows the number that one more standard deviation of a feature adds to the logit of the class."
    assert any(e["text"].startswith(says) for e in page.all("p"))
    captions = [e["text"] for e in page.all("caption")]
    assert all(name in captions for name in names)


def test_many_classes_of_vectors(tmp_path, charts):
    splits = toy_run(tmp_path / "run", image_shape=None, K=25, n=900, dtype="float32")
    text = page_of(tmp_path / "run", splits)
    assert "The first 24 of 25 classes." in text
    assert len([e for e in Page(text).all("tr") if e["text"].startswith("feature ")]) == 240


def test_many_classes_show_the_most_frequent_confusions(tmp_path):
    splits = toy_run(tmp_path / "run", K=25, n=900)
    page = Page(page_of(tmp_path / "run", splits))
    found = evaluate(Run.open(tmp_path / "run").model, splits.test)
    strips = [e["id"] for e in page.elements if e.get("class") == "strip"]
    wrong = found.confusion - np.diag(found.confusion.diagonal())
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    assert f"cell-{i}-{j}" in strips
    assert any("Picture of the confusion" in e.get("alt", "") for e in page.all("img"))


def test_where_test_rows_were_left_alone_the_report_leaves_them_alone(tmp_path):
    splits = toy_run(tmp_path / "run", report_test=False)
    text = page_of(tmp_path / "run", splits)
    right = evaluate(Run.open(tmp_path / "run").model, splits.validation).accuracy
    number = re.search(r"validation accuracy</dt><dd>([\d.]+) %", text).group(1)
    assert float(number) == pytest.approx(100 * right, abs=0.5)
    assert "test accuracy" not in text


def test_zero_epochs(tmp_path, charts):
    splits = toy_run(tmp_path / "run", replace(CONFIG, epochs=0))
    page = Page(page_of(tmp_path / "run", splits))
    assert len(page.all("svg")) == 2


def test_the_command_line_makes_the_same_model(run_cli, tiny_cifar, tmp_path):
    options = ["--learning-rate", "0.02", "--l2", "1e-05", "--flip", "--epochs", "2", "--seed", "7"]
    options += ["--protocol", "full", "--validation-size", "30"]
    assert run_cli("train", "--data", tiny_cifar, "--out", "a run", "--no-figures", *options)[0] == 0
    code, out, err = run_cli("report", "a run", "-o", "r.html")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"r\.html: \d\.\d MB\n", out)
    (command,) = (e["text"] for e in Page((tmp_path / "r.html").read_text("utf-8")).all("pre"))
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "onelayer"
    assert run_cli(*words[1:], "--out", "again", "--no-figures")[0] == 0
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a run", "again")]
    assert models[0] == models[1]


def figures_of(page):
    """Name, figure and interval of each figure on the first screen."""
    opening = page.elements[: page.elements.index(page.all("nav")[0])]
    texts = [e["text"] for e in opening if e["tag"] in ("dt", "dd", "small")]
    return {
        name: (both.removesuffix(ends), ends) for name, both, ends in zip(*(texts[k::3] for k in range(3)), strict=True)
    }


def test_the_first_screen_shows_the_references_and_every_interval(toy):
    text, splits, model = toy
    page, rows = Page(text), {part.name: part.rows(slice(None)).astype(np.float64) for part in splits}
    varies = rows["train"].std(axis=0) > 0
    means, scales = rows["train"][:, varies].mean(axis=0), rows["train"][:, varies].std(axis=0)
    X, X_test = ((rows[name][:, varies] - means) / scales for name in ("train", "test"))
    y, y_test = splits.train.labels, splits.test.labels
    commonest = np.bincount(y).argmax()
    P, P_train = (
        model.probabilities(part.rows(slice(None))).astype(np.float64) for part in (splits.test, splits.train)
    )
    losses = -np.log(P[np.arange(60), y_test])
    right = {
        "test accuracy": P.argmax(axis=1) == y_test,
        f"always {model.class_names[commonest]}": y_test == commonest,
        "nearest class mean": NearestCentroid().fit(X, y).predict(X_test) == y_test,
        "training accuracy": P_train.argmax(axis=1) == y,
    }
    figures = figures_of(page)
    assert list(figures) == [*right, "test loss", "calibration error"]
    for name, of_rows in right.items():
        ends = proportion_confint(of_rows.sum(), len(of_rows))
        digits = 0 if 50 * (ends[1] - ends[0]) > 3.55 else 1
        number, interval = figures[name]
        assert number == f"{100 * of_rows.mean():.{digits}f} %"
        assert interval == f"{100 * ends[0]:.{digits}f} to {100 * ends[1]:.{digits}f}"
    half = 1.96 * losses.std(ddof=1) / np.sqrt(60)
    assert figures["test loss"] == (
        f"{losses.mean():.3f} nats",
        f"{losses.mean() - half:.3f} to {losses.mean() + half:.3f}",
    )
    (sentence,) = (e["text"] for e in page.all("p") if e.get("class", "").startswith("judged"))
    points = 100 * (right["test accuracy"].mean() - right["nearest class mean"].mean())
    assert "nearest class mean" in sentence
    assert float(re.search(r": ([+-][\d.]+) points", sentence).group(1)) == pytest.approx(points, abs=0.5)


def proportion_confint(count, n, z=1.959964):
    """Wilson's interval, from the roots of (p - share)^2 = z^2 p (1 - p) / n."""
    share = count / n
    return sorted(np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2]).real)


def test_a_model_that_is_not_better_than_a_reference_is_marked(tmp_path):
    splits = toy_run(tmp_path / "run", replace(CONFIG, learning_rate=1e-7, epochs=1))
    (judged,) = (e for e in Page(page_of(tmp_path / "run", splits)).all("p") if "judged" in e.get("class", ""))
    assert judged["class"] == "judged problems"
    assert judged["text"].startswith(("It is worse than", "It is not better than"))


def test_with_class_weights_the_first_screen_compares_the_balanced_accuracy(tmp_path):
    splits = toy_run(tmp_path / "run", replace(CONFIG, class_weight="balanced"))
    page, model = Page(page_of(tmp_path / "run", splits)), Run.open(tmp_path / "run").model
    predictions = model.probabilities(splits.test.rows(slice(None))).argmax(axis=1)
    balanced = 100 * balanced_accuracy_score(splits.test.labels, predictions)
    commonest = model.class_names[np.bincount(splits.train.labels).argmax()]
    found = {name: float(figure.split()[0]) for name, (figure, _) in figures_of(page).items()}
    assert found["test balanced accuracy"] == pytest.approx(balanced, abs=0.5)
    assert found[f"always {commonest}, balanced accuracy"] == pytest.approx(100 / len(model.class_names), abs=0.5)
    (judged,) = (e for e in page.all("p") if "judged" in e.get("class", ""))
    assert judged["text"].endswith(" of balanced accuracy on the same rows.")


def test_no_line_ends_within_an_option_or_before_a_percent_sign():
    words = _unbroken("a <b>: 5 % - try --learning-rate auto or --l2 0")
    assert words == (
        'a &lt;b&gt;: 5\N{NO-BREAK SPACE}% - try <span class="option">--learning-rate</span> auto or '
        '<span class="option">--l2</span> 0'
    )


def test_recorded_advice_is_shown_where_it_is_of_the_same_rows(tmp_path):
    splits = toy_run(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    advice = ["The loss was still falling: type --epochs 9."]
    summary = {name: value for name, value in run.summary.items() if name != "checksum"}
    write_json(run.summary_path, summary | {"evaluation": {"name": "toy, test"}, "advice": advice})
    assert advice[0] in [e["text"] for e in Page(page_of(run.path, splits)).all("li")]
    write_json(run.summary_path, summary | {"evaluation": {"name": "toy, validation"}, "advice": advice})
    assert advice[0] not in page_of(run.path, splits)


def test_title_author_and_dates_are_shown(tmp_path):
    splits = toy_run(tmp_path / "run")
    page = Page(render(read_subject([tmp_path / "run"]), lambda plan: splits, title=HOSTILE[0], author=HOSTILE[1]))
    assert [e["text"] for e in page.all("h1")] == [HOSTILE[0]]
    assert page.all("title")[0]["text"].startswith(HOSTILE[0])
    day = datetime.now(UTC).date().isoformat()
    assert f"{HOSTILE[1]}, {day}" in [e["text"] for e in page.all("p")]
    shown = [e["text"] for e in page.all("dd")]
    assert sum(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", text) is not None for text in shown) >= 1
    assert {"all 5 epochs are done", "of epoch 5"} <= set(shown)


def test_the_kept_epoch_is_named(tmp_path):
    config = replace(CONFIG, learning_rate=0.1, epochs=20, batch_size=20, keep="best", init_std=0)
    splits = toy_run(tmp_path / "run", config)
    run = Run.open(tmp_path / "run")
    kept = run.summary["kept_epoch"]
    assert kept < 20
    page = Page(page_of(run.path, splits))
    assert any(f"The model is that of epoch {kept} of 20" in e["text"] for e in page.all("figcaption"))
    alts = [e["alt"] for e in page.all("img")]
    name = run.model.class_names[0]
    assert f"template of {name} after {kept} epoch{'s' * (kept != 1)}" in alts
    assert not any("with the initial weights" in alt for alt in alts), "they were 0"


@pytest.mark.parametrize(
    ("change", "named"), [({}, True), ({"learning_rate": 0.1, "l2": 1.0, "seed": 1}, True), ({"init_std": 0.0}, False)]
)
def test_the_coursework_is_named_where_its_data_and_settings_are(tmp_path, change, named):
    splits = toy_run(tmp_path / "run")
    splits = replace(split(replace(splits.dataset, name="CIFAR-10"), SplitConfig()), protocol="batch")
    subject = read_subject([tmp_path / "run"])
    assert (course(subject, replace(COURSEWORK, **change), splits) is not None) is named
    assert course(subject, COURSEWORK, replace(splits, protocol="full")) is None


def test_an_old_run_has_a_report(tmp_path):
    """The files of tests/golden have no date, no kept epoch and no reason why training ended."""
    run = Run.open(GOLDEN / "run")
    plan, _ = run.read_checkpoint()
    digits = load_splits(plan.source, plan.split_config)
    page = Page(render(read_subject([run.path]), lambda plan: digits))
    assert any("The model is that of epoch" in e["text"] for e in page.all("figcaption"))


def test_a_verdict_in_a_table_is_not_said_twice(tmp_path):
    _, splits = toy_sweep(tmp_path / "study" / "batch")
    rows = [["train rows", "inside"], ["test rows", "outside"]]
    finding = {"title": "figures", "verdict": "1 of 2 is inside. test rows: outside", "rows": rows}
    plain = {"title": "effect", "verdict": "better. By far", "columns": ["", "a"], "rows": rows}
    content = {"format": "onelayer-study", "version": 1, "name": "coursework", "seeds": [1, 2]}
    findings = [finding | {"columns": ["of", "verdict"]}, plain]
    (tmp_path / "study" / "study.json").write_text(json.dumps(content | {"findings": findings}))
    page = Page(render(read_subject([tmp_path / "study"]), lambda plan: splits))
    sentences = [e["text"] for e in page.all("p") if e.get("class", "").startswith("sentence")]
    assert sentences == ["1 of 2 is inside", "better. By far"]
    assert not [e for e in page.all("p") if "that was tried" in e["text"]], "the values of a study are fixed"
    (link,) = (e for e in page.all("a") if e["href"].startswith("http"))
    assert link["href"] == "https://www.kth.se/student/kurser/kurs/DD2424?l=en"


def test_a_sweep_begins_with_the_picture_of_its_settings(tmp_path, charts):
    _, splits = toy_sweep(tmp_path / "sweep")
    file = tmp_path / "sweep" / "grid.png"
    image = Image.effect_noise((40, 30), 50).convert("RGB")
    image.save(file)
    page = Page(page_of(tmp_path / "sweep", splits))
    assert np.array_equal(pixels(page.all("img")[0]["src"]), np.asarray(image))
    file.write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"grid\.png: damaged"):
        page_of(tmp_path / "sweep", splits)


def test_runs_are_grouped_by_their_settings(tmp_path):
    better = replace(CONFIG, learning_rate=0.003)
    toy_run(tmp_path / "0", replace(CONFIG, learning_rate=0.0003))
    toy_run(tmp_path / "1", replace(better, seed=1))
    toy_run(tmp_path / "2", replace(better, seed=2), report_test=False)
    (group,) = read_subject([tmp_path / name for name in "012"]).groups
    best, other = group.settings
    assert (best.seeds, best.split, other.seeds, other.split) == ((1, 2), "validation", (42,), "test")
    assert best.mean_sd("validation")[0] > other.mean_sd("validation")[0] + 0.2
    assert np.isnan(other.mean_sd("validation")[1])


def test_scores_say_that_validation_rows_were_trained_on(tmp_path):
    dataset = toy_dataset()
    for refit, words in ((False, "validation"), (True, "validation, trained on")):
        splits, path = split(dataset, SplitConfig(refit=refit)), tmp_path / words
        plan = Plan(CONFIG, SplitConfig(refit=refit), "toy", dataset.fingerprint)
        start(Run.create(path), plan, Problem.of(splits, plan.config))
        ((setting,),) = (group.settings for group in read_subject([path]).groups)
        assert [name for name, *_ in scores(setting, splits)] == ["train", words, "test"]


def test_training_rows_rank_no_setting(tmp_path):
    paths = [tmp_path / str(number) for number in range(3)]
    for path, rate in zip(paths, (0.003, 0.0003, 0.001), strict=True):
        toy_run(path, replace(CONFIG, learning_rate=rate))
        turn_training_round(Run.open(path))
    (group,) = read_subject(paths).groups
    accuracies = {name: [setting.mean_sd(name)[0] for setting in group.settings] for name in ("train", "validation")}
    assert accuracies["validation"] == sorted(accuracies["validation"], reverse=True)
    assert accuracies["train"] == sorted(accuracies["train"]), "training would rank them the other way round"
    assert len(set(accuracies["train"])) == 3


def test_settings_are_compared_on_the_test_rows_where_these_were_read(tmp_path):
    verdicts = {}
    for split_name, report_test in (("test", True), ("validation", False)):
        folder = tmp_path / split_name
        sweep, splits = toy_sweep(folder, report_test=report_test)
        page = Page(render(read_subject([folder]), lambda plan: splits))  # noqa: B023, called at once
        (caption,) = (e["text"] for e in page.all("caption") if "The best on validation is first" in e["text"])
        assert f"compared with it on the {split_name} rows" in caption
        right, names = [], []
        for result in results(sweep):
            names.append(f"learning rate {result.config.learning_rate:g}")
            models = (sweep.run(result.setting, seed).model for seed in sweep.plan.seeds)
            answers = [evaluate(model, getattr(splits, split_name)) for model in models]
            right.append(np.array([found.predictions == found.labels for found in answers]))
        verdicts[split_name] = [e["text"] for e in page.all("td") if "verdict" in e.get("class", "")][1:]
        assert verdicts[split_name] == [
            compare_answers(right[0], other, names=(names[0], name)).verdict()
            for other, name in zip(right[1:], names[1:], strict=True)
        ]
    assert verdicts["test"] != verdicts["validation"]


def test_a_sweep_is_a_table_with_verdicts(tmp_path):
    sweep, splits = toy_sweep(tmp_path / "sweep")
    subject = read_subject([tmp_path / "sweep"])
    assert not subject.problems
    text = render(subject, lambda plan: splits)
    page = Page(text)
    settings = [e["text"] for e in page.all("th") if e.get("class") == "setting"]
    assert sorted(settings) == ["learning rate 0.0003", "learning rate 0.001", "learning rate 0.003"]
    accuracies = []
    for setting in range(3):
        runs = [sweep.run(setting, seed).summary["results"] for seed in sweep.plan.seeds]
        accuracies.append(np.mean([results["validation"]["accuracy"] for results in runs]))
        spread = [100 * results["test"]["accuracy"] for results in runs]
        assert f"{np.mean(spread):.2f} ± {np.std(spread, ddof=1):.2f}" in " ".join(
            " ".join(e["text"].split()) for e in page.all("td")
        )
    assert settings[0] == f"learning rate {RATES[int(np.argmax(accuracies))]:g}"
    assert "validation loss" in [e["text"] for e in page.all("th")]
    losses = [float(e["data-value"]) for e in page.all("td") if e.get("data-label") == "validation loss"]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(results(sweep)[0].mean_sd("validation", "loss")[0])
    (edge,) = (e["text"] for e in page.all("p") if "that was tried" in e["text"])
    assert edge.startswith(f"{settings[0]} is the largest that was tried, and a better one may lie beyond it; try --l")
    best = evaluate(sweep.run(int(np.argmax(accuracies)), sweep.plan.seeds[0]).model, splits.test)
    number = re.search(r"test accuracy</dt><dd>([\d.]+) %", text).group(1)
    assert float(number) == pytest.approx(100 * best.accuracy, abs=0.5), "the details are of the best"
    verdicts = [e["text"] for e in page.all("td") if "verdict" in e.get("class", "")]
    assert verdicts[0] == "the best on validation"
    assert all("95 % interval" in verdict for verdict in verdicts[1:])
    assert "for seed in 1 2; do onelayer train" in text


def test_a_damaged_run_in_a_sweep_is_named_and_left_out(run_cli, tmp_path, monkeypatch):
    sweep, splits = toy_sweep(tmp_path / "sweep")
    monkeypatch.setattr(Plan, "load_splits", lambda *_: splits)
    damaged = sweep.run(1, 2)
    damaged.model_path.write_bytes(damaged.model_path.read_bytes()[:-50])
    shutil.rmtree(sweep.run(2, 1).path)
    code, out, err = run_cli("report", "sweep", "-o", "r.html")
    assert (code, err) == (1, "")
    assert re.search(r"left out: .*001-seed-2/model\.safetensors: damaged", out)
    assert "left out: sweep: 1 run not complete" in out
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert len([e for e in page.all("li") if "left out" in e["text"] or "damaged" in e["text"]]) == 1
    rows = {e["text"] for e in page.all("tr")}
    assert any(row.startswith("learning rate 0.0031") for row in rows), "one seed of it is left"
    shutil.rmtree(sweep.path / "runs")
    assert_one_line(run_cli("report", "sweep"), "sweep has no complete run to report")
    (sweep.path / "sweep.json").write_text("{")
    assert_one_line(run_cli("report", "sweep"), "sweep.json: damaged")


def test_a_study_shows_its_findings(tmp_path):
    _, splits = toy_sweep(tmp_path / "study" / "batch")
    finding = {"title": HOSTILE[0], "verdict": "it is worse", "columns": ["", "a"], "rows": [["row", HOSTILE[1]]]}
    content = {"format": "onelayer-study", "version": 1, "name": "coursework", "seeds": [1, 2]}
    (tmp_path / "study" / "study.json").write_text(json.dumps(content | {"findings": [finding]}))
    page = Page(render(read_subject([tmp_path / "study"]), lambda plan: splits))
    assert HOSTILE[0] in [e["text"] for e in page.all("h3")]
    assert HOSTILE[1] in [e["text"] for e in page.all("td")]
    for bad in ({**finding, "rows": [[1]]}, {**finding, "title": 3}, {**finding, "rows": 5}):
        (tmp_path / "study" / "study.json").write_text(json.dumps(content | {"findings": [bad]}))
        with pytest.raises(RunError, match=r"study\.json: damaged"):
            read_subject([tmp_path / "study"])


def test_what_cannot_be_reported_is_one_line(run_cli, tmp_path):
    toy_run(tmp_path / "one")
    toy_run(tmp_path / "other", seed=5)
    toy_sweep(tmp_path / "sweep")
    assert_one_line(run_cli("report", "missing"), "missing: no such run directory")
    assert_one_line(run_cli("report", "one", "other"), "other was trained on other data than one")
    assert_one_line(run_cli("report", "one", "sweep"), "sweep is a sweep; make a report of it alone")
    (tmp_path / "one" / "summary.json").write_text('{"results": {"train": 3}}')
    assert_one_line(run_cli("report", "one"), "is not complete|damaged")
    (tmp_path / "other" / "summary.json").unlink()
    assert_one_line(run_cli("report", "other"), "other is not complete; go on with: onelayer resume other")
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_written_is_one_line(run_cli, tmp_path, monkeypatch):
    splits = toy_run(tmp_path / "run")
    monkeypatch.setattr(Plan, "load_splits", lambda *_: splits)
    assert_one_line(run_cli("report", "run", "-o", "no/r.html"), r"cannot write no/r\.html: No such file")


def test_of_cifar_10(run_cli, cifar, tmp_path, charts):
    assert run_cli("train", "--data", cifar, "--epochs", "2", "--out", "run", "--no-figures")[0] == 0
    assert run_cli("report", "run", "-o", "r.html")[0] == 0
    assert 1e6 < (tmp_path / "r.html").stat().st_size < 5e6


def test_rows_count_by_their_weights(tmp_path):
    dataset = toy_dataset()
    weights = np.random.default_rng(0).choice([0, 0.3, 3], 300)
    labels = np.where(np.random.default_rng(3).random(300) < 0.3, 0, dataset.labels)
    dataset = replace(dataset, labels=labels, row_weights=weights / weights.mean())
    splits = split(dataset, SplitConfig())
    for name, rate in (("a", 0.003), ("b", 0.0001)):
        plan = Plan(replace(CONFIG, learning_rate=rate), SplitConfig(), "toy", dataset.fingerprint)
        start(Run.create(tmp_path / name), plan, Problem.of(splits, plan.config))
    best = Run.open(tmp_path / "a")
    page = Page(page_of(best.path, splits))
    model, test = best.model, splits.test
    w, predictions = test.row_weights(slice(None)), model.logits(test.rows(slice(None))).argmax(axis=1)
    accuracy = 100 * accuracy_score(test.labels, predictions, sample_weight=w)
    assert abs(accuracy - 100 * accuracy_score(test.labels, predictions)) > 0.5
    shown = [e["text"] for e in page.all("dd")]
    assert float(shown[0].split()[0]) == pytest.approx(accuracy, abs=0.5)
    counts = confusion_matrix(test.labels, predictions, sample_weight=w)
    shares = [e["text"] for e in page.all("td") if "--share" in e.get("style", "")]
    expected = 100 * counts / counts.sum(axis=1, keepdims=True)
    assert shares == [f"{share:.0f}" if share else "" for share in expected.ravel()]
    assert sum(e["tag"] == "figcaption" and "true: " in e["text"] for e in page.elements) == np.count_nonzero(
        (predictions != test.labels) & (w > 0)
    )
    both = render(read_subject([tmp_path / "a", tmp_path / "b"]), lambda plan: splits)
    right = [Run.open(tmp_path / name).model.logits(test.rows(slice(None))).argmax(1) == test.labels for name in "ab"]
    names = "learning rate 0.003", "learning rate 0.0001"
    assert compare_answers(*right, w, names=names).verdict() in Page(both).elements[0]["text"]
