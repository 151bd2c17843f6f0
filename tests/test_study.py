"""Studies: what they train, how they judge printed figures, and what they write down."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import assert_one_line
from scipy import stats

from onelayer import load_splits
from onelayer.analysis.evaluation import evaluate
from onelayer.config import COURSEWORK, SplitConfig, TrainConfig
from onelayer.errors import ConfigError, RunError
from onelayer.experiments import study
from onelayer.experiments.study import STUDIES, Effect, Finding, Reported, Setting, Study, read_study, run_study
from onelayer.runs.directory import Run

SEEDS = (1, 2, 3)


def loader(path):
    return lambda split_config: load_splits(str(path), split_config)


def short(study, epochs=2):
    """A study with fewer epochs."""

    def of(setting):
        return replace(setting, config=replace(setting.config, epochs=epochs))

    def figures(reported):
        return {(split, min(epoch, epochs)): figure for (split, epoch), figure in reported.figures.items()}

    return Study(
        tuple(Reported(of(reported.setting), figures(reported)) for reported in study.reported),
        tuple(Effect(effect.title, of(effect.a), of(effect.b)) for effect in study.effects),
        tuple(map(of, study.probabilities)),
        tuple(map(of, study.grid)),
    )


@pytest.fixture
def brief(monkeypatch):
    """The studies with two epochs, and all of the first batch, as the tiny CIFAR-10 has no 1,000 rows to hold out."""
    for name, whole in STUDIES.items():
        of_name = short(whole)
        on_batch = tuple(replace(setting, protocol="batch") for setting in of_name.grid)
        effects = tuple(e for e in of_name.effects if e.a.protocol == e.b.protocol == "batch")
        monkeypatch.setitem(STUDIES, name, replace(of_name, effects=effects, grid=on_batch))


def summaries(path):
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(path.glob("runs/*/summary.json"))}


def test_coursework(brief, tiny_cifar, tmp_path):
    path = tmp_path / "study"
    findings = run_study(path, "coursework", SEEDS, loader(tiny_cifar), workers=2)
    assert len(findings) == 4 + 3
    of_runs = summaries(path / "batch")
    assert len(of_runs) == 4 * len(SEEDS)
    for setting in range(4):  # the measured figures are those of the runs
        accuracies = [100 * of_runs[f"{setting:03}-seed-{seed}"]["results"]["test"]["accuracy"] for seed in SEEDS]
        cell = {row[0]: row[2] for row in findings[setting].rows}["test rows, epoch 2"]
        assert cell == f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}"
    content = read_study(path)
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (content["name"], content["seeds"]) == ("coursework", [*SEEDS])
    assert [finding.title for finding in content["findings"]] == [finding.title for finding in findings]


def test_a_study_goes_on_where_it_stopped(brief, tiny_cifar, tmp_path):
    path, steps = tmp_path / "study", []

    def stop(stage, done, *_):
        assert stage == "batch"
        steps.append(done)
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(path, "coursework", SEEDS, loader(tiny_cifar), workers=1, on_progress=stop)
    assert read_study(path)["findings"] == []
    resumed = run_study(path, "coursework", SEEDS, loader(tiny_cifar), workers=1)
    times = {file: file.stat().st_mtime_ns for file in path.glob("batch/runs/*/model.safetensors")}
    again = run_study(path, "coursework", SEEDS, loader(tiny_cifar))
    assert again == resumed
    assert times == {file: file.stat().st_mtime_ns for file in path.glob("batch/runs/*/model.safetensors")}
    assert resumed == run_study(tmp_path / "another", "coursework", SEEDS, loader(tiny_cifar), workers=3)


def test_the_grid_reads_the_test_rows_of_the_chosen_setting_only(brief, tiny_cifar, tmp_path):
    (finding,) = run_study(tmp_path / "study", "grid", SEEDS, loader(tiny_cifar))
    of_runs = summaries(tmp_path / "study" / "grid")
    validation = {}
    for name, summary in of_runs.items():
        validation.setdefault(name[:3], []).append(summary["results"]["validation"]["accuracy"])
    best = max(validation, key=lambda setting: np.mean(validation[setting]))
    assert {name[:3] for name, summary in of_runs.items() if "test" in summary["results"]} == {best}
    config = STUDIES["grid"].grid[int(best)].config
    assert f"learning rate {config.learning_rate:g}, lambda {config.l2:g}" in finding.verdict
    assert [row[-1] != "-" for row in finding.rows] == [True] + [False] * (len(finding.rows) - 1)


def test_probabilities_of_the_true_class(brief, tiny_cifar, tmp_path):
    *_, finding = run_study(tmp_path / "study", "sigmoid", SEEDS, loader(tiny_cifar))
    test = load_splits(str(tiny_cifar), SplitConfig(protocol="batch")).test
    rows = {row[:2]: row for row in finding.rows}
    assert set(rows) == {(loss, kind) for loss in ("softmax", "sigmoid") for kind in ("right", "wrong")}
    right = []
    for seed in SEEDS:
        answers = evaluate(Run.open(tmp_path / f"study/batch/runs/001-seed-{seed}").model, test)
        for label, prediction, P in zip(answers.labels, answers.predictions, answers.probabilities, strict=True):
            right += [P[label]] if label == prediction else []
    for loss in ("softmax", "sigmoid"):
        assert (tmp_path / "study" / f"probability_{loss}.png").read_bytes().startswith(b"\x89PNG")
    assert rows["sigmoid", "right"][4] == f"{np.median(right):.3f}"


def test_an_effect_is_better_or_worse_as_the_accuracies_are(brief, tiny_cifar, tmp_path, monkeypatch):
    bad, good = (Setting("batch", replace(COURSEWORK, epochs=3, learning_rate=rate)) for rate in (1e-9, 0.01))
    effects = Effect("to learn", bad, good), Effect("not to learn", good, bad)
    monkeypatch.setitem(STUDIES, "flips", Study(effects=effects))
    seeds = range(8)  # with three, no difference would be beyond noise
    gain, loss = run_study(tmp_path / "study", "flips", seeds, loader(tiny_cifar))
    of_runs = summaries(tmp_path / "study" / "batch")
    means = []
    for place in range(2):
        accuracies = [of_runs[f"{place:03}-seed-{seed}"]["results"]["test"]["accuracy"] for seed in seeds]
        means.append(100 * np.mean(accuracies))
        cell = f"{means[-1]:.2f} ± {100 * np.std(accuracies, ddof=1):.2f} %"
        assert (gain.rows[place][1], loss.rows[1 - place][1]) == (cell, cell)
    assert means[1] > means[0] + 40
    size = f"by {means[1] - means[0]:.1f} points (95 % interval "
    for effect in (gain, loss):
        assert effect.verdict.startswith(f"learning rate 0.01 is better than learning rate 1e-09 {size}")
    assert gain.rows[2][1].startswith(f"+{means[1] - means[0]:.1f} points, 95 % interval ")
    assert loss.rows[2][1].startswith(f"-{means[1] - means[0]:.1f} points, 95 % interval -")


def covered(printed, values, rows=None):
    low, high = study.prediction_interval(values, rows)
    return low <= printed <= high


def test_one_more_seed_is_in_the_interval_95_times_of_100():
    rng = np.random.default_rng(0)
    for n in (2, 5, 10):
        inside = [covered(draw[0], draw[1:]) for draw in rng.normal(39, 0.2, (2000, n + 1))]
        assert 0.94 < np.mean(inside) < 0.97  # a little above, as printed figures are rounded


@pytest.mark.parametrize(("sd", "a", "b"), [(0.2, 10_000, 10_000), (2, 10_000, 1_000), (0.02, 500, 10_000)])
def test_one_more_seed_on_other_rows_is_in_the_interval_95_times_of_100(sd, a, b):
    rng, n, inside = np.random.default_rng(1), 5, []
    for _ in range(2000):
        abilities = rng.normal(39, sd, n + 1)
        # The seeds share their rows, and so their luck; the printed figure is of other rows.
        luck = 100 * (rng.binomial([a, b], 0.39) / [a, b] - 0.39)
        inside.append(covered(abilities[0] + luck[0], abilities[1:] + luck[1], (a, b)))
    assert 0.935 < np.mean(inside) < 0.975


def test_intervals_agree_with_scipys():
    values = np.array([45.4, 45.6, 45.5, 45.9])
    for level in (0.95, 0.999):
        ends = stats.t.interval(level, 3, values.mean(), values.std(ddof=1) * np.sqrt(1.25))
        assert np.subtract(study.prediction_interval(values, level=level), ends) == pytest.approx([-0.005, 0.005])
    alike = np.full(4, 40.0)
    assert study.prediction_interval(alike) == pytest.approx((39.995, 40.005))
    ends = stats.norm.interval(0.95, 40, 100 * np.sqrt(0.4 * 0.6 * (1 / 100 + 1 / 400)))
    assert np.subtract(study.prediction_interval(alike, (100, 400)), ends) == pytest.approx([-0.005, 0.005])


def test_five_seeds_and_ten_do_not_contradict_each_other():
    rng = np.random.default_rng(2)
    for away in (0, 1, 2, 2.5, 3, 4, 6, 10, 40):  # of the printed figure, in standard deviations
        draws = rng.normal(39, 0.2, (250, 10))
        found = [(study.place(39 + 0.2 * away, ten[:5]), study.place(39 + 0.2 * away, ten)) for ten in draws]
        opposite = [{"inside the range of other seeds", "outside the range of other seeds"} == set(f) for f in found]
        assert np.mean(opposite) <= 0.02, away
        if away in (0, 1):
            assert np.mean([ten.startswith("inside") for _, ten in found]) > 0.95
        if away > 6:
            assert np.mean([ten.startswith("outside") for _, ten in found]) > 0.95
    single = [[covered(39.5, ten[:5]) != covered(39.5, ten)] for ten in rng.normal(39, 0.2, (400, 10))]
    assert np.mean(single) > 0.1, "with one limit they often would"


def test_a_figure_outside_is_told_in_points_with_what_it_is_like():
    measured = {
        ("train", 1): np.array([29.9, 30.0, 30.1]),
        ("test", 1): np.array([28.9, 29.0, 29.1]),
        ("train", 40): np.array([45.4, 45.6, 45.5]),
        ("test", 40): np.array([39.0, 39.1, 39.2]),
    }
    sizes = dict.fromkeys(("train", "validation", "test"), 10**9)  # with a negligible sampling error
    trained = type("Trained", (), {"measured": lambda self: measured, "sizes": sizes})()
    setting = Setting("batch", TrainConfig(learning_rate=0.001))
    reported = Reported(setting, {("train", 40): 45.3, ("test", 40): 45.59, ("test", 1): 50.0, ("train", 1): 31.0})
    finding = study.judge(reported, trained)
    outside = "outside the range of other seeds"
    assert [row[-1] for row in finding.rows] == [
        "inside the range of other seeds",
        f"6.5 points above our mean, {outside}; it is like our accuracy on train rows, epoch 40, 45.50 ± 0.10",
        f"21.0 points above our mean, {outside}; it is like no accuracy measured here",
        "at the edge of the range of other seeds",
    ]
    assert finding.verdict.startswith("1 of 4 printed figures are inside the range of other seeds, 1 at its edge. test")
    assert "standard deviation" not in finding.verdict
    margin = stats.t.ppf(0.975, 2) * 0.1 * np.sqrt(4 / 3) + 0.005
    assert finding.rows[0][3] == f"{45.5 - margin:.1f} to {45.5 + margin:.1f}"
    measured["validation", 40] = np.array([45.8, 46.0, 45.9])  # with which 45.59 and 45.8 are consistent, too
    for printed, nearest in ((45.59, "train rows, epoch 40, 45.50"), (45.8, "validation rows, epoch 40, 45.90")):
        (row,) = study.judge(Reported(setting, {("test", 40): printed}), trained).rows
        assert all(covered(printed, measured[name, 40]) for name in ("train", "validation"))
        assert f"it is like our accuracy on {nearest} ± 0.10" in row[-1]


def test_other_rows_allow_for_their_sampling_error():
    noise = np.random.default_rng(3).normal(0, 0.2, (2, 10))
    measured = {("train", 40): 40 + noise[0], ("test", 40): 37.4 + noise[1]}
    setting = Setting("batch", COURSEWORK)
    for rows, like in ((10_000, "our accuracy on train rows, epoch 40"), (1_000_000, "no accuracy measured here")):
        sizes = dict.fromkeys(("train", "test"), rows)
        trained = type("Trained", (), {"measured": lambda self: measured, "sizes": sizes})()
        (row,) = study.judge(Reported(setting, {("test", 40): 38.99}), trained).rows
        assert f"outside the range of other seeds; it is like {like}" in row[-1]


def test_the_report_of_the_coursework_on_cifar(cifar, tmp_path, monkeypatch):
    whole = STUDIES["coursework"]  # of which the figures below need two settings
    monkeypatch.setitem(STUDIES, "coursework", Study(whole.reported[2:3], whole.effects[-1:]))
    printed, effect = run_study(tmp_path / "study", "coursework", (42, 43, 44), loader(cifar))
    row = {row[0]: row for row in printed.rows}["test rows, epoch 40"]
    assert row[1] == "44.72"
    assert re.match(r"[56]\.\d points above our mean, outside the range of other seeds; ", row[4])
    assert "like our accuracy on train rows, epoch 40" in row[4]
    assert abs(float(row[2].split()[0]) - 39.1) < 0.5
    assert effect.verdict.startswith("l2 0.1 is better than l2 1 by ")


@pytest.mark.parametrize(("seeds", "words"), [((), "seeds 0 is too few"), ((1, 2), "seeds 2 is too few")])
def test_too_few_seeds(seeds, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        run_study(tmp_path / "study", "coursework", seeds, loader("digits"))
    assert not (tmp_path / "study").exists()


def test_other_data_than_cifar(tmp_path):
    with pytest.raises(ConfigError, match=r"a study needs CIFAR-10 with its batches \(digits has no data_batch_1"):
        run_study(tmp_path / "study", "coursework", SEEDS, loader("digits"))
    assert not (tmp_path / "study").exists()


def test_overwriting_removes_all_that_was_there_at_once(brief, tiny_cifar, tmp_path):
    path = tmp_path / "study"
    run_study(path, "bonus", SEEDS, loader(tiny_cifar))
    (path / "report.html").write_text('<!DOCTYPE html><head><meta name="generator" content="onelayer">')

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(path, "bonus", (7, 8, 9), loader(tiny_cifar), overwrite=True, on_progress=stop)
    assert not (path / "report.html").exists()
    assert {file.parent.name for file in path.glob("*/sweep.json")} == {"batch"}
    findings = run_study(path, "bonus", (7, 8, 9), loader(tiny_cifar))
    assert findings == run_study(tmp_path / "fresh", "bonus", (7, 8, 9), loader(tiny_cifar))


def test_a_directory_of_something_else_is_left_alone(brief, tiny_cifar, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match=r"holds 'thesis.txt' and is not a study"):
        run_study(tmp_path / "mine", "coursework", SEEDS, loader(tiny_cifar))
    run_study(tmp_path / "study", "coursework", SEEDS, loader(tiny_cifar))
    with pytest.raises(RunError, match="is the study coursework with seeds 1 to 3; choose another --out"):
        run_study(tmp_path / "study", "sigmoid", SEEDS, loader(tiny_cifar))
    run_study(tmp_path / "study", "sigmoid", SEEDS, loader(tiny_cifar), overwrite=True)
    assert read_study(tmp_path / "study")["name"] == "sigmoid"


def test_a_damaged_run_is_named(brief, tiny_cifar, tmp_path):
    run_study(tmp_path / "study", "coursework", SEEDS, loader(tiny_cifar))
    (tmp_path / "study/batch/runs/002-seed-2/model.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match="002-seed-2: damaged"):
        run_study(tmp_path / "study", "coursework", SEEDS, loader(tiny_cifar))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "onelayer-study", "version": 2}', '{"format": "onelayer-study", "version": 1}'],
)
def test_a_damaged_study_is_named(content, tmp_path):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(RunError, match=r"study.json: damaged"):
        read_study(tmp_path)
    with pytest.raises(RunError, match=r"has no study\.json"):
        read_study(tmp_path / "none")


def test_findings_are_read_back(tmp_path):
    finding = Finding("a", "b", ("c",), (("d",),))
    content = {"format": "onelayer-study", "version": 1, "name": "flips", "seeds": [1, 2]}
    (tmp_path / "study.json").write_text(json.dumps(content | {"findings": [vars(finding)]}))
    (read,) = read_study(tmp_path)["findings"]
    assert (read.title, read.verdict, list(read.columns), [list(row) for row in read.rows]) == (
        "a",
        "b",
        ["c"],
        [["d"]],
    )


def test_the_command_shows_the_findings_and_leaves_a_report(brief, tiny_cifar, tmp_path, run_cli):
    out = tmp_path / "study"
    code, printed, errors = run_cli("study", "coursework", "--seeds", "3", "--data", tiny_cifar, "--out", out)
    assert (code, errors) == (0, "")
    assert "learning rate 0.1, lambda 0: the coursework's printed figures and ours (percent)" in printed
    assert re.search(r"the effect of lambda 1 instead of 0\.1\n.*\nl2 0\.1 +[\d.]+ ± [\d.]+ %\s*\nl2 1 ", printed)
    assert "coursework" in (out / "report.html").read_text()
    refused = run_cli("study", "coursework", "--seeds", "2", "--data", tiny_cifar)
    assert_one_line(refused, "seeds 2 is too few to tell an effect from noise; ask for 3 or more")


@pytest.mark.parametrize("name", ["study.json", "report.html"])
def test_overwriting_spares_what_no_study_wrote(brief, tiny_cifar, tmp_path, name):
    path = tmp_path / "study"
    path.mkdir()
    if name == "report.html":
        run_study(path, "coursework", SEEDS, loader(tiny_cifar))
    (path / name).write_text('{"mine": 1}')
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(RunError, match=r"does not belong to a study|does not say that this command wrote it"):
        run_study(path, "sigmoid", SEEDS, loader(tiny_cifar), overwrite=True)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
