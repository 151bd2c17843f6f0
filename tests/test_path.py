"""A path: the optimum for each lambda of a grid, the choice among them, and the run that it leaves."""

import csv
import html
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from helpers import assert_one_line, toy_dataset
from sklearn.linear_model import LogisticRegression

from onelayer.analysis.estimates import fraction
from onelayer.config import PATH_L2, SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, RunError
from onelayer.experiments.lambdas import LambdaPath, draw_path, path_figure, read_path, write_path
from onelayer.experiments.path import points_of, problem_of, require_grid, solve_path, train_chosen
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.train import train

CONFIG = TrainConfig(solver="converged", tol=1e-6)
L2S = [3.0, 1.0, 0.5, 0.4, 0.3, 0.25, 0.1, 0.03, 0.01, 0.003]


def hard_dataset(**options: object) -> Dataset:
    """Return noisy pictures, some with a wrong label: a penalty helps."""
    dataset, rng = toy_dataset(600, **options), np.random.default_rng(1)
    noisy = dataset.rows + rng.normal(0, 50, dataset.rows.shape)
    noisy[:, 7] = 3
    rows = np.clip(np.rint(noisy), 0, 255).astype(dataset.rows.dtype)
    labels = np.where(rng.random(600) < 0.3, rng.integers(0, 4, 600), dataset.labels)
    return replace(dataset, rows=rows, labels=labels)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return split(hard_dataset(), SplitConfig())


@pytest.fixture(scope="module")
def path(splits) -> LambdaPath:
    return solve_path(splits, CONFIG, L2S)


def test_each_optimum_is_that_of_its_lambda_alone(splits, path):
    assert [point.l2 for point in path.points] == L2S
    for point in path.points:
        alone = train(splits, replace(CONFIG, l2=point.l2))
        record = alone.state.history[-1]
        assert point.reached
        assert point.gap <= CONFIG.tol * point.cost
        assert point.cost == pytest.approx(record.train_cost, rel=2 * CONFIG.tol)
        assert point.train.cost == pytest.approx(record.train_cost, rel=2 * CONFIG.tol)
        assert point.norm == pytest.approx(np.linalg.norm(alone.model.layer.weights), rel=1e-2)
        assert point.loss.value == pytest.approx(alone.scores["validation"].loss, rel=1e-3)
    norms = [point.norm for point in path.points]
    assert norms == sorted(norms)
    assert norms[-1] > 4 * norms[0]


def test_each_iteration_says_how_far_it_is(splits):
    told = []
    found = solve_path(splits, CONFIG, [0.1, 0.001], progress=lambda *of: told.append(of))
    assert {(done, total) for done, total, _ in told} == {(0, 2), (1, 2)}
    words = [words for *_, words in told]
    assert len(words) == len(set(words))
    for number, point in enumerate(found.points, 1):
        of_point = [line for line in words if line.startswith(f"l2 {point.l2:g} ({number} of 2), ")]
        assert len(of_point) >= 3
        aim = CONFIG.tol * (point.cost - point.gap)
        assert of_point[-1].endswith(f"{point.passes:g} passes, gap {point.gap:.1g} nats, aim {aim:.1g}")


def test_a_warm_start_saves_passes(splits):
    close = [0.1 * 0.9**step for step in range(8)]
    points = list(points_of(problem_of(splits, CONFIG), close))
    alone = [next(points_of(problem_of(splits, CONFIG), [l2])).passes for l2 in close]
    assert sum(point.passes for point in points) < 0.8 * sum(alone)


def test_accuracies_are_those_of_scikit_learn(splits):
    exact = replace(CONFIG, tol=1e-9, dtype="float64")
    n, of_rows = len(splits.train), splits.standardizer
    X, V = ((part.rows(slice(None)) - of_rows.mean) / of_rows.scale for part in (splits.train, splits.validation))
    y, truth = splits.train.labels, splits.validation.labels
    rights = set()
    for point in solve_path(splits, exact, L2S).points:
        peer = LogisticRegression(C=1 / (2 * point.l2 * n), tol=1e-9, max_iter=10_000).fit(X, y)
        right = int((peer.predict(V) == truth).sum())
        rights.add(right)
        assert abs(point.accuracy.value * len(truth) - right) <= 1
        assert abs(point.train.accuracy * n - (peer.predict(X) == y).sum()) <= 1
        assert point.loss.value == pytest.approx(-peer.predict_log_proba(V)[np.arange(len(V)), truth].mean(), rel=1e-4)
        assert point.accuracy == fraction(point.accuracy.value, len(truth))
    assert len(rights) > 3, "the accuracies differ along the path"


@pytest.mark.parametrize("select", ["loss", "accuracy"])
def test_the_best_and_one_standard_error(splits, path, select):
    scores, errors = [], []
    for l2 in L2S:  # directly: the mean over the rows, and its standard error
        model = train(splits, replace(CONFIG, l2=l2)).model
        P, y = model.probabilities(splits.validation.rows(slice(None))), splits.validation.labels
        of_rows = -np.log(P[np.arange(len(y)), y]) if select == "loss" else (P.argmax(axis=1) != y).astype(float)
        scores.append(of_rows.mean())
        errors.append(of_rows.std(ddof=1) / len(y) ** 0.5)
    best = int(np.argmin(scores))
    largest = next(k for k, score in enumerate(scores) if score <= scores[best] + errors[best])
    assert largest < best, "the rule changes the choice here"
    plain, careful = (replace(path, select=select, one_standard_error=rule) for rule in (False, True))
    assert path.points[best].errors[select] == pytest.approx(errors[best], rel=1e-3)
    assert (plain.best.l2, plain.chosen.l2) == (L2S[best], L2S[best])
    assert (careful.best.l2, careful.chosen.l2) == (L2S[best], L2S[largest])
    assert careful.choice_in_words() == (
        f"chosen by validation {select}: l2 {L2S[largest]:g}, the largest within one standard error of the best, "
        f"{L2S[best]:g}"
    )


def test_of_equal_scores_the_largest_lambda_is_chosen(path):
    alike = tuple(replace(point, accuracy=path.points[2].accuracy) for point in path.points)
    assert LambdaPath(alike, "accuracy").chosen.l2 == L2S[0]
    words = f"chosen by validation accuracy: l2 {L2S[0]:g}, the best; no larger one is within one standard error of it"
    assert LambdaPath(alike, "accuracy", one_standard_error=True).choice_in_words() == words


def test_a_choice_at_an_edge_has_a_note(splits, path):
    place = path.points.index(path.chosen)
    assert 1 < place < len(L2S) - 2, "the best is inside"
    assert path.notes == []
    above, below = LambdaPath(path.points[:2]), LambdaPath(path.points[place + 1 :])
    assert above.notes == [
        "l2 1 is the smallest that was tried, and a better one may lie beyond it; try --l2 1 0.3 0.1"
    ]
    assert below.notes[0].startswith(f"l2 {below.chosen.l2:g} is the largest that was tried, and a better one may lie")


def test_a_lambda_that_did_not_converge_is_named(splits):
    points = tuple(points_of(problem_of(splits, replace(CONFIG, max_passes=4)), [3.0, 0.001]))
    assert [point.reached for point in points] == [True, False]
    assert "4 passes" in points[1].ended
    note = "not converged: l2 0.001; allow more passes or a larger gap: --max-passes, --tol"
    assert note in LambdaPath(points).notes


def _weighted(dataset: Dataset) -> Dataset:
    return replace(dataset, row_weights=np.random.default_rng(0).uniform(0, 2, len(dataset.labels)).round())


@pytest.mark.parametrize("settings", [{"loss": "sigmoid"}, {"class_weight": "balanced"}, {"flip": True}])
@pytest.mark.parametrize("change", [lambda dataset: dataset, _weighted], ids=["plain", "weighted"])
def test_losses_flips_and_weights(settings, change):
    splits = split(change(hard_dataset()), SplitConfig())
    config = replace(CONFIG, **settings)
    for point in solve_path(splits, config, [0.3, 0.03]).points:
        alone = train(splits, replace(config, l2=point.l2))
        assert point.reached
        assert point.train.loss == pytest.approx(alone.scores["train"].loss, rel=1e-3)
        assert point.loss.value == pytest.approx(alone.scores["validation"].loss, rel=1e-3)
        assert abs(point.accuracy.value - alone.scores["validation"].accuracy) < 0.02


def test_rows_in_a_memory_map(splits, path, tmp_path):
    dataset = splits.dataset
    np.save(tmp_path / "rows.npy", dataset.rows)
    mapped = split(replace(dataset, rows=np.load(tmp_path / "rows.npy", mmap_mode="r")), SplitConfig())
    for here, there in zip(solve_path(mapped, CONFIG, L2S[:3]).points, path.points, strict=False):
        assert here.cost == pytest.approx(there.cost, rel=2 * CONFIG.tol)
        assert here.accuracy == there.accuracy


def test_the_test_rows_are_not_read(splits, path):
    rows = splits.dataset.rows.copy()
    rows[splits.test.indices] = 0
    blind = split(replace(splits.dataset, rows=rows), SplitConfig())
    assert solve_path(blind, CONFIG, L2S).points == path.points


@pytest.mark.parametrize(
    ("l2s", "words"),
    [
        ([1.0, 0.0], "l2 0 has no place on a path, which goes by the logarithm of l2; leave it out, or train with it"),
        ([1.0, 1.0], "a path needs at least two values of l2; onelayer train --solver converged takes one$"),
        ([], "a path needs at least two values"),
        ([1.0, -1.0], "l2 -1 is not zero or a positive number"),
        ([1.0, np.nan], "l2 nan is not"),
    ],
)
def test_grids_that_are_refused(l2s, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        require_grid(l2s)


def test_settings_that_are_refused(splits):
    with pytest.raises(ConfigError, match=r"^a path needs the solver converged, not sgd$"):
        solve_path(splits, TrainConfig())
    with pytest.raises(ConfigError, match=r"^select 'cost' is not loss or accuracy$"):
        solve_path(splits, CONFIG, select="cost")
    refitted = split(splits.dataset, SplitConfig(refit=True))
    with pytest.raises(ConfigError, match=r"^toy has no validation rows to choose l2 by; divide it in another way$"):
        solve_path(refitted, CONFIG)
    with pytest.raises(InterruptedError):
        solve_path(splits, CONFIG, L2S, cancelled=lambda: True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--l2", "1,0.1"], "separate numbers by spaces: --l2 1 0.1"),
        (["--l2", "1", "0"], "l2 0 has no place on a path"),
        (["--learning-rate", "0.1"], "--learning-rate"),
        (["--l2", "1", "-0.1"], "l2 -0.1 is not zero or a positive number"),
        (["--l2", "0.1", "0.1"], "a path needs at least two values of l2"),
        (["--tol", "2"], "tol 2 is not a number between 0 and 1"),
    ],
)
def test_command_lines_that_are_refused(run_cli, tmp_path, words, message):
    code, _, err = run_cli("path", "--data", "digits", *words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


DIGITS = ["path", "--data", "digits", "--l2", "0.001", "0.1", "0.01"]


def test_the_command_leaves_a_run(run_cli, tmp_path):
    code, out, err = run_cli(*DIGITS, "--no-figures")
    assert code == 0, err
    run = Run.open(tmp_path / "runs" / "digits-1")
    with (run.path / "path.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["l2"], row["chosen"]) for row in table] == [("0.1", "false"), ("0.01", "false"), ("0.001", "true")]
    assert min(table, key=lambda row: float(row["validation_loss"]))["l2"] == "0.001"
    assert "* chosen by validation loss: l2 0.001\n" in out
    assert "note: l2 0.001 is the smallest that was tried" in out
    afresh = "the model is trained afresh for l2 0.001, as onelayer train --solver converged does"
    assert f"\n{afresh}, so that its figures may differ a little from the table\n" in out
    of_path = run.summary["path"]
    assert (of_path["l2"], of_path["best"], of_path["chosen"]) == ([0.1, 0.01, 0.001], 0.001, 0.001)
    assert "test" in run.scores
    assert not (run.path / "path.png").exists()
    alone = ["train", "--data", "digits", "--solver", "converged", "--l2", "0.001", "--no-figures"]
    assert run_cli(*alone, "--out", "alone")[0] == 0
    assert (run.path / "model.safetensors").read_bytes() == (tmp_path / "alone" / "model.safetensors").read_bytes()
    assert run_cli("evaluate", run.path)[0] == 0
    assert run_cli(*alone, "--out", run.path, "--overwrite")[0] == 0
    assert not (run.path / "path.csv").exists()


def test_refit_and_the_picture(run_cli, tmp_path):
    choice = ["--one-standard-error", "--select", "accuracy", "--class-weight", "balanced"]
    code, out, err = run_cli(*DIGITS, "--refit", *choice, "--out", "r")
    assert code == 0, err
    assert "converged does, on the training and validation rows together, so that its" in out
    assert "figures of the iterations: rows weighted by class; in the tables, all rows count alike\n" in out
    run = Run.open(tmp_path / "r")
    assert run.summary["data"]["sizes"]["train"] == 1079 + 359
    assert run.summary["data"]["protocol"] == "stratified, refitted on train and validation"
    assert run.summary["path"]["one_standard_error"] is True
    assert run.config.l2 == run.summary["path"]["chosen"]
    assert "one standard error of" in out
    assert (run.path / "path.png").read_bytes().startswith(b"\x89PNG")
    alone = ["train", "--data", "digits", "--solver", "converged", "--l2", run.config.l2, "--refit", "--no-figures"]
    alone += ["--class-weight", "balanced"]
    assert run_cli(*alone, "--out", "alone")[0] == 0
    assert Run.open(tmp_path / "alone").scores == run.scores


@pytest.mark.parametrize("select", ["loss", "accuracy"])
def test_the_file_holds_the_whole_path(splits, path, select, tmp_path):
    short = solve_path(splits, replace(CONFIG, max_passes=4), L2S[-3:])
    assert {point.reached for point in (*path.points, *short.points)} == {True, False}
    for one in (path, replace(path, one_standard_error=True), short):
        one = replace(one, select=select)
        write_path(Run(tmp_path), one)
        found = read_path(Run(tmp_path))
        costs = [point.train.cost for point in found.points]
        assert costs == pytest.approx([point.train.cost for point in one.points])
        same = [replace(a, train=b.train) for a, b in zip(found.points, one.points, strict=True)]
        assert replace(found, points=tuple(same)) == one
        assert found.summary() == one.summary()
    (tmp_path / "path.csv").unlink()
    assert read_path(Run(tmp_path)) is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("train_loss", "loss", "train_loss"),
        ("\n3.0,", "\nx,", "could not convert string to float: 'x'"),
        ("\n3.0,", "\n-3.0,", "numbers that cannot be"),
        ("\n3.0,false,", "\n3.0,false,nan,", "numbers that cannot be"),
        ("\n3.0,", "\n1.0,", "it has no order"),
        (",loss,", ",lass,", "it has no order"),
        (",true,", ",false,", "it names another choice"),
        ("\n3.0,", "\n3.0" + 2**22 * " " + ",", "it is too large"),
    ],
)
def test_a_damaged_file_is_named(path, tmp_path, old, new, words):
    write_path(Run(tmp_path), path)
    file = tmp_path / "path.csv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(RunError, match=f"path.csv: damaged .*{words}.*; remove it, or run onelayer path again$"):
        read_path(Run(tmp_path))
    for content in (b"", b"\xff", text.partition("\n")[0].encode()):
        file.write_bytes(content)
        with pytest.raises(RunError, match=r"path\.csv: damaged"):
            read_path(Run(tmp_path))


def test_a_run_that_is_stopped_keeps_its_path(splits, path, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    run = Run.create(tmp_path / "run")
    plan = Plan(CONFIG, SplitConfig(), "toy", splits.dataset.fingerprint)
    with pytest.raises(KeyboardInterrupt):
        train_chosen(run, path, plan, splits, stop)
    assert run.checkpoint_path.exists()
    assert read_path(run).chosen.l2 == path.chosen.l2 == run.config.l2


def test_the_picture_names_the_division_of_the_path(splits, path, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Run, "write_figure", lambda self, name, figure: drawn.append((name, figure)))
    plan = Plan(replace(CONFIG, l2=path.chosen.l2), SplitConfig(refit=True), "toy", splits.dataset.fingerprint)
    refitted = split(splits.dataset, plan.split_config)
    draw_path(Run(tmp_path), plan, refitted)
    assert drawn == [], "no path chose it"
    write_path(Run(tmp_path), path)
    draw_path(Run(tmp_path), plan, refitted)
    weighted = replace(plan, config=replace(plan.config, class_weight="balanced"))
    draw_path(Run(tmp_path), weighted, refitted)
    for (name, figure), of, alike in zip(drawn, (plan, weighted), ("", "; all rows count alike"), strict=True):
        words = f"toy, protocol stratified; chosen: {of.config.setting_in_words()}{alike}"
        assert (name, [text.get_text() for text in figure.texts].count(words)) == ("path", 1)


def test_a_path_that_is_stopped_leaves_nothing(run_cli, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onelayer.training.converged.Convergence.layer", stop)  # after the first lambda
    code, _, err = run_cli(*DIGITS)
    assert (code, err) == (130, "onelayer: stopped; nothing is kept, and the same command begins again\n")
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_report_and_figures_show_the_path(run_cli, tmp_path):
    options = ["--select", "accuracy", "--refit", "--one-standard-error", "--class-weight", "balanced", "--out", "r"]
    assert run_cli(*DIGITS, *options)[0] == 0
    run = Run.open(tmp_path / "r")
    picture, of_path = (run.path / "path.png").read_bytes(), run.summary["path"]
    (run.path / "path.png").unlink()
    assert run_cli("figures", "r")[0] == 0
    assert (run.path / "path.png").read_bytes() == picture
    assert run_cli("resume", "r", "--no-figures")[0] == 0
    assert run.summary["path"] == of_path
    assert run_cli("report", "r", "--out", "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text()
    found = read_path(run)
    assert f"{found.choice_in_words()}. Each point is the optimum for its lambda. All rows count alike in" in page
    for what in ("Loss", "Accuracy"):
        assert f'aria-label="{what} by lambda: validation from ' in page
    for point in found.points:
        mark = " *" if point.l2 == run.config.l2 else ""
        assert f'<th scope="row" data-value="{point.l2:g}">{point.l2:g}{mark}</th>' in page
        assert f'<td data-label="validation (nats)">{point.loss.value:.4f}</td>' in page
    assert "onelayer train --data" not in page
    (command,) = re.findall(r"<code>onelayer (path [^<]+)</code>", page)
    words = [*shlex.split(html.unescape(command).replace("\\\n", "")), "--out", "again", "--no-figures"]
    assert run_cli(*words)[0] == 0
    again = Run.open(tmp_path / "again")
    assert again.summary["path"] == of_path
    assert again.model_path.read_bytes() == run.model_path.read_bytes()
    assert run_cli("train", "--data", "digits", "--epochs", "1", "--out", "s", "--no-figures")[0] == 0
    assert run_cli("report", "s", "--out", "s.html")[0] == 0
    assert "by lambda" not in (tmp_path / "s.html").read_text()
    (run.path / "path.csv").write_text("l2\n1\n")
    assert_one_line(run_cli("report", "r", "--out", "t.html"), "path.csv: damaged")


def test_the_picture_marks_the_chosen_lambda(path):
    figure = path_figure(path, "toy")
    accuracy, loss = figure.axes
    for axes, value in ((accuracy, 100 * path.chosen.accuracy.value), (loss, path.chosen.loss.value)):
        assert axes.get_xscale() == "log"
        lines = {line.get_label(): line for line in axes.lines}
        ring = lines[f"chosen: lambda {path.chosen.l2:g}"]
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (path.chosen.l2, value)
        assert list(lines["validation"].get_xdata()) == L2S
    band = accuracy.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(100 * min(point.accuracy.low for point in path.points))
    texts = [text.get_text() for text in figure.texts]
    assert path.choice_in_words() in texts


def test_the_default_grid():
    assert require_grid(PATH_L2) == list(PATH_L2)
    assert (PATH_L2[0], PATH_L2[-1]) == (10, 1e-4)
