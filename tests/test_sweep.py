"""Sweeps: the same numbers whatever the workers, nothing lost by what stops them, and test rows that do not choose."""

import csv
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from helpers import assert_one_line, start, toy_splits, turn_training_round
from matplotlib.text import Text
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from onelayer.config import COURSEWORK, SplitConfig, TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, DataError, RunError
from onelayer.experiments.sweep import (
    Sweep,
    SweepPlan,
    choose,
    draws,
    edge_notes,
    grid,
    notes_on_choice,
    refit,
    results,
    run_sweep,
    search,
    select_of,
)
from onelayer.experiments.sweep.picture import grid_figure
from onelayer.experiments.sweep.refitting import path_to, refit_config
from onelayer.experiments.sweep.results import SettingResult, SweepRun, ranked
from onelayer.files import write_json
from onelayer.runs.directory import Run
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.history import EpochRecord, Score
from onelayer.training.state import TrainingState
from onelayer.training.train import train

OF_COURSEWORK = {name: [value] for name, value in COURSEWORK.settings.items()}
CONFIGS = grid(OF_COURSEWORK | {"learning_rate": [0.05, 0.001], "l2": [0.0, 0.1], "epochs": [4]})
DIGITS = ["sweep", "--preset", "coursework", "--data", "digits", "--epochs", "3", "--learning-rate", "0.1", "0.001"]


def plan_of(
    splits: Splits, configs: tuple[TrainConfig, ...] = CONFIGS, seeds: tuple[int, ...] = (42, 43), **options: object
) -> SweepPlan:
    return SweepPlan(configs, seeds, SplitConfig(), "toy", splits.dataset.fingerprint, **options)


def bits(sweep: Sweep) -> dict[str, bytes]:
    """Return the bytes of all files that do not hold times."""
    names = ("sweep.csv", "sweep.json", "model.safetensors", "diverged.txt")
    return {str(p.relative_to(sweep.path)): p.read_bytes() for p in sweep.path.rglob("*") if p.name in names}


def finished(path: Path, workers: int = 2, **options: object) -> Sweep:
    splits = toy_splits()
    sweep = Sweep.create(path, plan_of(splits, **options))
    run_sweep(sweep, splits, workers=workers)
    sweep.write_csv(results(sweep))
    return sweep


def test_the_numbers_do_not_depend_on_the_workers(tmp_path):
    made = [finished(tmp_path / str(workers), workers) for workers in (1, 2, 3)]
    assert len(bits(made[0])) == 8 + 2
    assert bits(made[0]) == bits(made[1]) == bits(made[2])
    for result in results(made[1]):
        for run in result.runs:
            alone = train(toy_splits(), replace(result.config, seed=run.seed, threads=2))
            expected = {name: score for name, score in alone.scores.items() if name != "test"}
            assert run.scores == expected
            model = made[1].run(run.setting, run.seed).model
            assert model.to_bytes() == alone.model.to_bytes()


@pytest.mark.parametrize("select", ["accuracy", "loss"])
def test_the_best_mean_validation_score_comes_first(tmp_path, select):
    sweep = finished(tmp_path / "sweep", select=select)
    found = results(sweep)
    accuracies = {r.setting: [run.scores["validation"].accuracy for run in r.runs] for r in found}
    means = [np.mean([getattr(run.scores["validation"], select) for run in result.runs]) for result in found]
    assert means == sorted(means, reverse=select == "accuracy")
    assert abs(means[0] - means[-1]) > 0.1, "the settings hardly differ: this would order nothing"
    for result in found:
        mean, sd = result.mean_sd("validation")
        values = accuracies[result.setting]
        assert (mean, sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert all(math.isnan(value) for value in result.mean_sd("test"))
        margin = 12.706204736 * stats.sem(values)  # Student's t, one degree of freedom, two-sided 95 %
        assert result.interval("validation") == pytest.approx((np.mean(values) - margin, np.mean(values) + margin))
    one = replace(found[0], runs=found[0].runs[:1])
    assert math.isnan(one.mean_sd("validation")[1])
    assert np.isnan(one.interval("validation")).all()


def test_balanced_accuracy_chooses_where_it_is_asked_for(tmp_path):
    dataset = toy_splits().dataset
    labels = np.where(np.random.default_rng(0).random(300) < 0.6, 0, dataset.labels)  # unequal classes
    splits = split(replace(dataset, labels=labels), SplitConfig())
    plan = plan_of(splits, select="balanced-accuracy")
    found = search(tmp_path / "sweep", plan, splits)
    means = []
    for result in found.results:
        expected = []
        for run in result.runs:
            rows = splits.validation
            predicted = found.sweep.run(run.setting, run.seed).model.logits(rows.rows(slice(None))).argmax(axis=1)
            expected.append(balanced_accuracy_score(rows.labels, predicted))
            assert abs(expected[-1] - run.scores["validation"].accuracy) > 0.01
            assert run.balanced_accuracy == pytest.approx(expected[-1], rel=1e-12)
        means.append(np.mean(expected))
        assert result.mean_sd("validation", "balanced_accuracy")[0] == pytest.approx(means[-1])
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 0.05
    with found.sweep.csv_path.open(newline="") as file:
        (first, *_) = [row for row in csv.DictReader(file) if row["chosen"] == "true"]
    assert float(first["validation_balanced_accuracy"]) == found.best.runs[0].balanced_accuracy
    run = found.sweep.run(found.best.setting, 42)
    summary = run.summary
    del summary["validation_balanced_accuracy"]
    write_json(run.summary_path, summary)  # as if it was stopped before
    assert found.sweep.read(found.best.setting, 42).status == "missing"
    assert search(tmp_path / "sweep", plan, splits).results == found.results


def test_loss_and_accuracy_may_choose_differently():
    def result(setting, loss, accuracy):
        score = {"validation": Score(loss, loss, accuracy)}
        return SettingResult(setting, TrainConfig(), (SweepRun(setting, 42, "complete", score),))

    found = [result(0, 0.9, 0.70), result(1, 0.8, 0.60), result(2, 1.0, 0.65)]
    assert [of.setting for of in ranked(found, "loss")] == [1, 0, 2]
    assert [of.setting for of in ranked(found, "accuracy")] == [0, 2, 1]


def test_training_rows_choose_nothing(tmp_path):
    sweep = finished(tmp_path / "sweep")
    before = [result.setting for result in results(sweep)]
    for setting in before:
        for seed in sweep.plan.seeds:
            turn_training_round(sweep.run(setting, seed))
    found = results(sweep)
    means = [result.mean_sd("train", "loss")[0] for result in found]
    assert means == sorted(means, reverse=True), "training would choose the last"
    assert means[0] > means[-1] + 0.1
    assert [result.setting for result in found] == before
    assert choose(found).setting == before[0]
    sweep.write_csv(found)
    with sweep.csv_path.open(newline="") as file:
        assert {int(row["setting"]) for row in csv.DictReader(file) if row["chosen"] == "true"} == {before[0]}


def test_test_rows_are_read_for_the_chosen_setting_only(tmp_path, monkeypatch):
    splits, read = toy_splits(), []
    evaluate = ArrayBackend.evaluate

    def spy(self, layer, split, cancelled):
        read.append(split.name)
        return evaluate(self, layer, split, cancelled)

    monkeypatch.setattr(ArrayBackend, "evaluate", spy)
    configs = tuple(replace(config, backend="numpy") for config in CONFIGS)
    sweep = Sweep.create(tmp_path / "sweep", plan_of(splits, configs))
    run_sweep(sweep, splits)
    assert read.count("validation") == 4 * 2 * 4
    assert "test" not in read
    best = choose(results(sweep))
    run_sweep(sweep, splits, settings=[best.setting], report_test=True)
    run_sweep(sweep, splits, settings=[best.setting], report_test=True)
    assert read.count("test") == 2, "once for each seed"
    for result in results(sweep):
        for run in result.runs:
            summary = json.loads(sweep.run(run.setting, run.seed).summary_path.read_text())
            assert ("test" in summary["results"]) == (result.setting == best.setting)
            if result.setting == best.setting:
                assert run.scores == train(splits, replace(result.config, seed=run.seed)).scores


def test_an_interrupted_sweep_goes_on_to_the_same_bits(tmp_path):
    whole, splits = finished(tmp_path / "whole"), toy_splits()
    sweep = Sweep.create(tmp_path / "sweep", whole.plan)

    def stop_at(epochs):
        def stop(done, *_):
            if done >= epochs:
                raise KeyboardInterrupt

        return stop

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, splits, workers=2, on_progress=stop_at(18))
    statuses = [run.status for result in results(sweep) for run in result.runs]
    assert {"complete", "missing"} == set(statuses)
    assert choose(results(sweep)) is None, "nothing is chosen half-way"
    partial = [sweep.run(r.setting, run.seed) for r in results(sweep) for run in r.runs if run.status == "missing"]
    assert any(run.checkpoint_path.exists() and 0 < run.read_checkpoint()[1].epoch < 4 for run in partial)
    kept = {path: path.stat().st_mtime_ns for path in sweep.path.rglob("summary.json")}
    seen = []
    again = Sweep.create(tmp_path / "sweep", whole.plan)
    run_sweep(again, splits, workers=3, on_progress=lambda *progress: seen.append(progress))
    runs = statuses.count("missing")
    assert seen[-1] == (4 * runs, 4 * runs, (runs, runs))
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "complete runs are left alone"
    again.write_csv(results(again))
    assert bits(again) == bits(whole)


def test_a_run_that_ends_by_itself_promises_no_number_of_epochs(tmp_path):
    splits, seen = toy_splits(), []
    plan = plan_of(splits, (TrainConfig(patience=1), TrainConfig(patience=1, epochs=3)))
    sweep = Sweep.create(tmp_path / "sweep", plan)
    run_sweep(sweep, splits, workers=1, on_progress=lambda *progress: seen.append(progress))
    assert {total for _, total, _ in seen} == {None}
    trained = [sweep.run(run.setting, run.seed).summary["epochs"] for result in results(sweep) for run in result.runs]
    assert seen[-1] == (sum(trained), None, (len(trained), len(trained)))
    assert [runs for _, _, (runs, _) in seen] == sorted(runs for _, _, (runs, _) in seen)


def test_a_run_that_diverges_stops_no_other_and_is_remembered(tmp_path, monkeypatch):
    configs = grid(OF_COURSEWORK | {"learning_rate": [1e300, 0.05], "epochs": [3]})
    sweep = finished(tmp_path / "sweep", configs=configs)
    found = results(sweep)
    assert [result.config.learning_rate for result in found] == [0.05, 1e300]
    assert [run.status for run in found[0].runs] == ["complete"] * 2
    assert [run.status for run in found[1].runs] == ["diverged"] * 2
    assert "epoch 1 is not a finite number" in found[1].runs[0].note
    monkeypatch.setattr("onelayer.runs.training.solve", None)
    run_sweep(sweep, toy_splits())
    with sweep.csv_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["diverged"] * 2 + ["complete"] * 2
    assert [row["chosen"] for row in rows] == ["false"] * 2 + ["true"] * 2
    assert [bool(row["validation_accuracy"]) for row in rows] == [False] * 2 + [True] * 2


def test_a_setting_of_which_a_run_diverged_is_not_preferred(tmp_path):
    sweep = finished(tmp_path / "sweep")
    best = results(sweep)[0]
    run = sweep.run(best.setting, 42)
    run.summary_path.unlink()
    (run.path / "diverged.txt").write_text("it did")
    assert results(sweep)[-1].setting == best.setting


@pytest.mark.parametrize("damage", ["checkpoint", "model", "no model", "summary", "score", "stranger", "settings"])
def test_a_damaged_run_is_told_and_left_as_it_is(tmp_path, damage):
    sweep, splits = finished(tmp_path / "sweep"), toy_splits()
    run = sweep.run(1, 43)
    if damage in ("checkpoint", "model"):
        path = run.path / f"{damage}.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "no model":
        run.model_path.unlink()
    elif damage == "summary":
        run.summary_path.write_text('{"config": {"epochs": 4}}')
    elif damage == "score":
        summary = json.loads(run.summary_path.read_text())
        summary["results"]["train"]["accuracy"] = "good"
        del summary["checksum"]  # with which it would be refused for that
        run.summary_path.write_text(json.dumps(summary))
    elif damage == "stranger":
        shutil.rmtree(run.path)
        run.path.mkdir()
        (run.path / "thesis.tex").write_text("dear")
    else:
        shutil.rmtree(run.path)
        shutil.copytree(sweep.run(0, 43).path, run.path)
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    run_sweep(sweep, splits, report_test=True)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before
    rows = {(row.setting, row.seed): row for result in results(sweep) for row in result.runs}
    assert [key for key, row in rows.items() if row.status != "complete"] == [(1, 43)]
    assert rows[1, 43].status == "damaged"
    assert str(run.path) in rows[1, 43].note
    shutil.rmtree(run.path)
    run_sweep(sweep, splits)
    assert sweep.read(1, 43).status == "complete"


def test_the_grid_varies_the_last_option_fastest():
    configs = grid({"learning_rate": [0.1, 0.01], "l2": [0, 1.0, 0.0], "flip": [True]})
    pairs = [(config.learning_rate, config.l2) for config in configs]
    assert pairs == [(0.1, 0), (0.1, 1), (0.01, 0), (0.01, 1)]
    assert all(config.flip for config in configs)


def test_draws_are_log_uniform_in_their_range():
    options = {"learning_rate": [1e-1, 1e-5], "l2": [0.5], "batch_size": [10, 20, 40], "loss": ["softmax"]}
    configs = draws(options, 3000)
    rates = np.array([config.learning_rate for config in configs])
    assert rates.min() >= 1e-5
    assert rates.max() <= 1e-1
    places = np.sort((np.log10(rates) + 5) / 4)  # uniform on [0, 1]
    uniform = np.arange(1, 3001) / 3000
    assert np.abs(places - uniform).max() < 1.95 / 3000**0.5, "Kolmogorov and Smirnov, p = 0.001"
    sizes = np.bincount([config.batch_size for config in configs])[[10, 20, 40]]
    assert sizes.sum() == 3000
    assert (np.abs(sizes - 1000) < 100).all()
    assert {config.l2 for config in configs} == {0.5}
    assert draws(options, 7) == configs[:7]
    assert draws(options, 7, random_seed=1) != configs[:7]


@pytest.mark.parametrize(
    ("options", "count", "message"),
    [
        ({"l2": []}, None, "l2 has no values, which leaves nothing to train"),
        ({"learning_rate": [0.1, -2.0]}, None, "learning rate -2 is not a positive number"),
        ({"learning_rate": [0.1, math.nan]}, 3, "learning rate nan is not a positive number"),
        ({"l2": [0.0, 1.0]}, 3, "l2 0 cannot be the end of a range"),
        ({"l2": [1.0]}, 3, "random has nothing to draw from"),
        ({"l2": [0.1, 1.0]}, 0, "random 0 is not a whole number of at least 1"),
    ],
)
def test_options_that_make_no_sweep(options, count, message):
    with pytest.raises(ConfigError, match=message):
        grid(options) if count is None else draws(options, count)


def test_a_plan_is_read_back(tmp_path):
    plan = plan_of(toy_splits(), draws({"learning_rate": [1e-3, 0.1], "flip": [True, False]}, 5))
    Sweep.create(tmp_path / "sweep", plan)
    assert Sweep.open(tmp_path / "sweep").plan == plan
    file = tmp_path / "sweep" / "sweep.json"
    content = json.loads(file.read_text())
    assert content.pop("select") == "loss"
    del content["checksum"]
    file.write_text(json.dumps(content))  # as an older version left it
    assert Sweep.open(tmp_path / "sweep").plan == replace(plan, select="accuracy")
    with pytest.raises(ConfigError, match="select 'cost' is not loss, accuracy or balanced-accuracy"):
        replace(plan, select="cost")


def test_another_sweep_is_refused_with_the_reason(tmp_path):
    sweep = finished(tmp_path / "sweep", configs=CONFIGS[:1])
    plan, path = sweep.plan, sweep.path
    others = {
        "its learning rate is 0.05, not 0.05, 0.001": replace(plan, configs=CONFIGS[::2]),
        "its seeds are 42, 43, not 42": replace(plan, seeds=(42,)),
        "its rows are split in another way": replace(plan, split_config=SplitConfig(split_seed=1)),
        "its setting is chosen by loss, not by accuracy": replace(plan, select="accuracy"),
        "its data begin with the fingerprint": replace(plan, fingerprint="0" * 64),
    }
    for message, other in others.items():
        with pytest.raises(RunError, match=f"is another sweep: {message}.*; choose another --out or pass --overwrite"):
            Sweep.create(path, other)
    assert Sweep.create(path, replace(plan, source="moved")).read(0, 42).status == "complete"
    (path / "runs" / "notes").mkdir()
    made = Sweep.create(path, others["its seeds are 42, 43, not 42"], overwrite=True)
    assert made.read(0, 42).status == "missing"
    assert [file.name for file in (path / "runs").iterdir()] == ["notes"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("dear")
    with pytest.raises(RunError, match=r"holds 'thesis\.tex' and is not a sweep of onelayer"):
        Sweep.create(tmp_path / "other", plan, overwrite=True)
    for content in ("", "[]", '{"format": "onelayer-sweep", "version": 2}', json.dumps({"format": "x", "version": 1})):
        (path / "sweep.json").write_text(content)
        with pytest.raises(RunError, match=r"sweep\.json: damaged"):
            Sweep.open(path)
    with pytest.raises(RunError, match="is not a sweep of onelayer"):
        Sweep.open(tmp_path / "missing")
    with pytest.raises(DataError, match="is not the data of the sweep"):
        run_sweep(Sweep(path, plan), toy_splits(seed=1))


def test_a_refit_trains_on_validation_rows_too(tmp_path):
    sweep, splits = finished(tmp_path / "sweep"), toy_splits()
    best = choose(results(sweep))
    again = refit(sweep, best.setting)
    together = split(splits.dataset, SplitConfig(refit=True))
    assert sorted(together.train.indices) == sorted([*splits.train.indices, *splits.validation.indices])
    assert np.array_equal(together.test.indices, splits.test.indices)
    assert not np.isin(together.test.indices, together.train.indices).any()
    run_sweep(again, together, report_test=True)
    (found,) = results(again)
    by_hand = replace(splits, train=Split("train", splits.dataset, together.train.indices))
    for run in found.runs:
        assert run.scores["test"] == train(by_hand, replace(best.config, seed=run.seed)).scores["test"]
    assert Run.open(again.run(0, 42).path).read_checkpoint()[0].split_config.refit
    other = refit(sweep, (best.setting + 1) % 4)
    assert other.read(0, 42).status == "missing"


def test_the_command(run_cli, tmp_path):
    code, out, err = run_cli(*DIGITS, "--l2", "0", "0.1", "--seeds", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    head = next(place for place, line in enumerate(lines) if line.split()[:2] == ["learning", "rate"])
    table = [line.split()[1:] for line in lines[head + 1 : head + 5]]
    assert sorted(line.split()[0] for line in lines[head + 1 : head + 5]) == ["000", "001", "002", "003"]
    assert {tuple(row[:2]) for row in table} == {("0.1", "0"), ("0.1", "0.1"), ("0.001", "0"), ("0.001", "0.1")}
    losses = [float(row[2]) for row in table]
    assert losses == sorted(losses)
    assert [row.count("-") for row in table] == [0, 1, 1, 1], "test figures of the chosen one only"
    assert f"chosen by validation loss: learning rate {table[0][0]}, l2 {table[0][1]}" in lines
    assert any(line.startswith("note: learning rate 0.1 is the largest that was tried") for line in lines)
    assert "the test rows were read for this setting only" in lines
    assert lines[-1] == "sweeps/digits-1/: grid.png, runs, sweep.csv, sweep.json"
    assert [path.name for path in tmp_path.rglob("*.png")] == ["grid.png"]
    with (tmp_path / "sweeps/digits-1/sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert [row["chosen"] == "true" for row in rows] == [bool(row["test_accuracy"]) for row in rows]
    assert sum(row["chosen"] == "true" for row in rows) == 2
    for name in sorted(path.name for path in (tmp_path / "sweeps/digits-1/runs").iterdir())[:2]:
        assert run_cli("evaluate", f"sweeps/digits-1/runs/{name}", "--split", "validation")[0] == 0


def test_test_figures_of_all_settings_come_with_a_warning(run_cli, tmp_path):
    code, out, _ = run_cli(*DIGITS, "--report-test", "all", "--out", "sweep")
    assert code == 0
    assert "note: do not choose a setting by the test figures of the other settings" in out
    with (tmp_path / "sweep/sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["test_accuracy"] for row in rows)
    assert [row["note"] for row in rows] == ["", "these test figures must not choose"]


def test_a_damaged_run_shows_in_the_exit_code(run_cli, tmp_path):
    assert run_cli(*DIGITS, "--out", "sweep", "--quiet") == (0, "", "")
    (tmp_path / "sweep/runs/001-seed-42/checkpoint.safetensors").write_bytes(b"no")
    code, out, err = run_cli(*DIGITS, "--out", "sweep")
    assert (code, err) == (1, "")
    assert "note: left out a damaged run: sweep/runs/001-seed-42/checkpoint.safetensors" in out


def test_where_all_diverge_nothing_is_chosen(run_cli):
    code, out, _ = run_cli("sweep", "--data", "digits", "--learning-rate", "1e300", "1e301")
    assert code == 1
    assert "1 diverged" in out
    assert "no setting is chosen, because no run is complete" in out


def test_options_in_a_file_and_pictures(run_cli, tmp_path):
    (tmp_path / "s.toml").write_text('eta = [0.1]\nflip = [true, false]\nepochs = 2\ndata = "digits"\nrefit = true\n')
    code, out, err = run_cli("sweep", "--config", "s.toml", "--lam", "0.1", "--out", "sweep", "--figures")
    assert (code, err) == (0, "")
    plan = Sweep.open(tmp_path / "sweep").plan
    assert [(config.learning_rate, config.flip) for config in plan.configs] == [(0.1, True), (0.1, False)]
    assert {config.l2 for config in plan.configs} == {0.1}
    assert "test, refitted on train and validation rows: " in out
    pictures = {path.stem for path in (tmp_path / "sweep/runs/000-seed-42").glob("*.png")}
    assert pictures == {"loss", "cost", "accuracy", "templates", "templates_signed"}, (
        "no test rows, so none that show them"
    )
    assert (tmp_path / "sweep/refit/runs/000-seed-42/confusion.png").exists()
    (tmp_path / "s.toml").write_text("l2 = []\n")
    assert_one_line(run_cli("sweep", "--config", "s.toml", "--data", "digits"), "l2 has no values")


def test_bad_input_is_one_line(run_cli):
    for words, message in {
        "--l2": "l2 has no values",
        "--learning-rate 0.1 -1 0.2": "learning rate -1 is not a positive number",
        "--learning-rate 0.1 x": "--learning-rate takes a number or auto, not 'x'",
        "--epochs 1 1.5": "--epochs takes a whole number or auto, not '1.5'",
        "--seeds 0": "seeds 0 is not a whole number of at least 1",
        "--seeds 2 --solver converged": "seeds 2: the solver converged has one answer, whatever the seed; leave",
        "--seed -1": "seed -1 is not a whole number of at least 0",
        "--workers -1": "workers -1 is not a whole number of at least 0",
        "--loss hinge": "hinge",
    }.items():
        assert_one_line(run_cli("sweep", "--data", "digits", *words.split()), message)


def test_ctrl_c_says_how_to_go_on(tmp_path):
    words = ["sweep", "--data", "digits", "--l2", "0", "0.1", "1", "--epochs", "20000"]
    command = [sys.executable, "-m", "onelayer", *words]
    with start(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        while not list(tmp_path.rglob("checkpoint.safetensors")):
            assert process.poll() is None
            time.sleep(0.01)  # the processor is the sweep's
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "onelayer: stopped; go on with the same command and --out sweeps/digits-1\n"


def test_settings_that_do_not_fit_the_data_leave_no_directory(run_cli, tmp_path, monkeypatch):
    monkeypatch.setattr("onelayer.data.load_splits", lambda *_, **__: toy_splits(image_shape=None))
    for command in ("train", "sweep"):
        code, _, err = run_cli(command, "--flip", "--epochs", "1")
        assert (code, err) == (2, "onelayer: flip needs images, but the rows of toy are not images; leave it out\n")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_spares_what_no_sweep_wrote(tmp_path):
    sweep = finished(tmp_path / "sweep", configs=CONFIGS[:1])
    other = replace(sweep.plan, seeds=(42,))
    note = sweep.run(0, 43).path / "notes.txt"
    note.write_text("mine")
    with pytest.raises(RunError, match=r"holds 'notes.txt', which no run wrote; move it away or choose another --out"):
        Sweep.create(sweep.path, other, overwrite=True)
    assert note.read_text() == "mine"
    assert sweep.read(0, 42).status == "complete"
    note.unlink()
    assert Sweep.create(sweep.path, other, overwrite=True).read(0, 42).status == "missing"


@pytest.mark.parametrize("content", ['{"method": "bayes"}', "[1]", "not JSON", '{"format": "onelayer-study"}'])
def test_another_programs_sweep_json_is_not_overwritten(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(RunError, match=r"sweep.json does not belong to a sweep of onelayer; choose another --out"):
        Sweep.create(tmp_path, plan_of(toy_splits(), CONFIGS[:1]), overwrite=True)
    assert (tmp_path / "sweep.json").read_text() == content


def test_a_sweep_in_one_call(tmp_path):
    splits, stages = toy_splits(), []
    found = search(tmp_path / "sweep", plan_of(splits), splits, on_progress=lambda *progress: stages.append(progress))
    assert {(stage, done) for stage, done, total, _ in stages if done == total} == {("training", 32)}
    assert [result.has_test for result in found.results] == [True, False, False, False]
    assert found.best.setting == min(range(4), key=lambda setting: mean_loss(found.sweep, setting))
    assert (tmp_path / "sweep" / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "sweep" / "sweep.csv").exists()
    again = search(tmp_path / "sweep", plan_of(splits), splits, refit_best=True)
    assert again.results == found.results
    assert again.refitted.config == found.best.config
    assert again.runs[-2:] == list(again.refitted.runs)
    everything = search(tmp_path / "all", plan_of(splits), splits, report_all=True)
    assert all(result.has_test for result in everything.results)
    assert everything.best.setting == found.best.setting


def mean_loss(sweep: Sweep, setting: int) -> float:
    runs = (sweep.run(setting, seed).scores["validation"].loss for seed in sweep.plan.seeds)
    return float(np.mean(list(runs)))


@pytest.mark.parametrize(
    ("values", "chosen", "words"),
    [
        ({"learning_rate": [0.001, 0.01, 0.1]}, 2, "learning rate 0.1 is the largest.* try --learning-rate 0.1 1 10$"),
        ({"learning_rate": [0.1, 0.03, 0.01]}, 2, "0.01 is the smallest .*; try --learning-rate 0.01 0.003 0.001$"),
        ({"learning_rate": [0.1, 0.0001]}, 0, "try --learning-rate 0.1 1 10$"),
        ({"learning_rate": [0.001, 0.01, 0.1]}, 1, None),
        ({"l2": [0.0, 0.1]}, 0, None),  # there is no smaller one
        ({"l2": [0.0, 0.1]}, 1, "try --l2 0.1 1 10$"),
        ({"l2": [0.01, 0.1]}, 0, "l2 0.01 is the smallest that was tried.*; try --l2 0.01 0.001 0.0001 0$"),
        ({"batch_size": [10, 20, 40]}, 0, "try --batch-size 10 5 2 1$"),
        ({"batch_size": [10, 20, 40]}, 2, "try --batch-size 40 80 200$"),
        ({"decay_factor": [0.5, 1.0], "decay_every": [2]}, 1, None),
        ({"momentum": [0.5, 0.9]}, 1, "momentum 0.9 is the largest .*; try --momentum 0.9 0.99$"),
        ({"momentum": [0.9, 0.999]}, 1, None),
        ({"momentum": [0.0, 0.9]}, 0, None),
        ({"features_seed": [0, 1, 2]}, 2, None),  # a seed is not an amount
        ({"dtype": ["float32", "float64"]}, 1, None),
        ({"flip": [False, True]}, 1, None),
    ],
)
def test_a_choice_at_the_edge_says_what_to_try_next(values, chosen, words):
    configs = grid(values)
    plan = SweepPlan(configs, (1,), SplitConfig(), "toy", "0")
    notes = edge_notes(plan, SettingResult(chosen, plan.configs[chosen], ()))
    assert len(notes) == (words is not None)
    if words:
        assert re.search(words, notes[0]), notes
        (option, *numbers) = re.search(r"try --(\S+) (.*)$", notes[0]).groups()
        grid({option.replace("-", "_"): [type(next(iter(values.values()))[0])(word) for word in numbers[0].split()]})


@pytest.mark.parametrize(
    ("select", "seeds", "losses", "is_noise"),
    [
        ("loss", (1,), [[1.0817], [1.0816], [1.0817]], True),
        ("loss", (1,), [[1.09], [1.05], [1.07]], False),
        ("accuracy", (1,), [[0.5004], [0.5], [0.5]], True),
        ("loss", (1, 2, 3), [[1.0, 1.1, 1.2], [1.0, 1.05, 1.2], [1.1, 1.0, 1.2]], True),
        ("loss", (1, 2, 3), [[1.0, 1.2, 1.4], [1.1, 1.31, 1.5], [1.1, 1.31, 1.52]], False),  # alike for each seed
    ],
)
def test_settings_that_differ_by_noise_alone_are_named_so(select, seeds, losses, is_noise):
    plan = SweepPlan(grid({"l2": [1.0, 0.1, 0.01]}), seeds, SplitConfig(), "toy", "0", select=select)
    found = [
        SettingResult(
            place,
            plan.configs[place],
            tuple(
                SweepRun(place, seed, "complete", {"validation": Score(value, value, value)})
                for seed, value in zip(seeds, of, strict=True)
            ),
        )
        for place, of in enumerate(losses)
    ]
    (note,) = notes_on_choice(plan, found, found[0])
    assert ("their choice hardly matters" in note) is is_noise
    assert ("is the largest that was tried" in note) is not is_noise
    assert ("seeds" in note) is (is_noise and len(seeds) > 1)


def test_drawn_settings_have_edges_too():
    plan = SweepPlan(draws({"learning_rate": [1e-3, 1e-1]}, 9), (1,), SplitConfig(), "toy", "0")
    assert not plan.is_grid or len(plan.varied) == 1
    rates = [config.learning_rate for config in plan.configs]
    (note,) = edge_notes(plan, SettingResult(0, plan.configs[int(np.argmax(rates))], ()))
    assert f"--learning-rate {max(rates):g} " in note
    assert edge_notes(plan, SettingResult(0, plan.configs[int(np.argsort(rates)[4])], ())) == []


@pytest.mark.parametrize(
    ("options", "count", "seeds", "texts"),
    [
        ({"l2": [0.0, 0.1, 1.0]}, None, (1, 2), {"l2 (not to scale)", "0", "0.1", "1", "Validation loss by l2"}),
        ({"l2": [0.0, 0.1], "dtype": ["float32", "float64"]}, None, (1,), {"l2", "dtype", "float32", "float64"}),
        (
            {"l2": [0.1, 1.0], "learning_rate": [0.1, 0.01, 1e300]},
            None,
            (1, 2),
            {"none", "learning rate (not to scale)", "l2"},
        ),
        ({"l2": [0.1, 1.0], "flip": [True, False], "batch_size": [10, 20, 30]}, None, (1,), {"batch size", "l2"}),
        ({"l2": [0.1, 1.0], "learning_rate": [0.1, 0.01]}, 5, (1,), {"l2", "learning rate"}),
    ],
)
def test_the_picture_of_a_grid(tmp_path, options, count, seeds, texts):
    splits = toy_splits()
    options = OF_COURSEWORK | options | {"epochs": [2]}
    plan = plan_of(splits, grid(options) if count is None else draws(options, count), seeds)
    found = search(tmp_path / "sweep", plan, splits)
    figure = grid_figure(plan, found.results)
    shown = {text.get_text() for text in figure.findobj(Text)}
    assert texts <= shown, shown
    for axes in figure.axes:
        if legend := axes.get_legend():
            figure.canvas.draw()
            assert legend.get_window_extent().y0 >= axes.get_window_extent().y1, "a point could lie behind it"
    if count is None and len(plan.varied) == 2:
        means = [result.mean_sd("validation", "loss")[0] for result in found.results if result.complete]
        cells = [float(text.split("\n")[0]) for text in shown if re.match(r"\d+\.\d+(\n|$)", text)]
        assert all(min(abs(cell - mean) for cell in cells) < 0.051 for mean in means)
    if "flip" in plan.varied:
        assert any(f"here flip {'yes' if found.best.config.flip else 'no'}" in text for text in shown)
    assert grid_figure(replace(plan, configs=plan.configs[:1]), found.results[:1]) is None


def test_the_settings_of_each_solver_are_swept_with_it(run_cli):
    optima = {"solver": ["converged"], "l2": [0.1], "tol": [1e-3, 1e-4], "max_passes": [7]}
    expected = [TrainConfig(solver="converged", l2=0.1, tol=tol, max_passes=7) for tol in (1e-3, 1e-4)]
    assert [*grid(optima)] == expected
    assert set(draws(optima, 9)) == set(expected)
    words = ["sweep", "--data", "digits", "--solver", "converged"]
    assert_one_line(run_cli(*words, "--tol", "2"), "tol 2 is not a number between 0 and 1")
    assert_one_line(
        run_cli(*words, "--lr", "0.1"), "learning rate 0.1 is a setting of the solver sgd, not of converged"
    )


def test_the_picture_of_optima_promises_no_noise(tmp_path):
    plan = plan_of(toy_splits(), grid({"solver": ["converged"], "l2": [0.1, 1.0]}), (1,))
    figure = grid_figure(plan, search(tmp_path / "sweep", plan, toy_splits()).results)
    shown = {text.get_text() for text in figure.findobj(Text)}
    assert {"l2", "one run of each setting: seeds change nothing"} <= shown, shown


def test_words_among_numbers(run_cli, tmp_path):
    words = "sweep --data digits --learning-rate auto 0.001 0.01 --epochs 2 auto --patience 1 --out sweep --seeds 2"
    code, out, err = run_cli(*words.split(), "--init-std", "0.01", "--decay-every", "0")
    assert (code, err) == (0, "")
    with (tmp_path / "sweep" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["learning_rate"], row["epochs"]) for row in rows} == {
        (rate, epochs) for rate in ("auto", "0.001", "0.01") for epochs in ("2", "auto")
    }
    plan = Sweep.open(tmp_path / "sweep").plan
    assert plan.values("learning_rate") == [0.001, 0.01, "auto"]
    assert "chosen by validation loss: learning rate auto, epochs auto" in out
    assert "is the largest" not in out
    figure = grid_figure(plan, results(Sweep.open(tmp_path / "sweep")))
    assert {"auto", "0.001", "0.01", "2"} <= {text.get_text() for text in figure.findobj(Text)}
    best = SettingResult(0, replace(plan.configs[0], learning_rate=0.01), ())
    assert len(edge_notes(plan, best)) == 1, "the largest number is at an edge, whatever the words"
    assert len({config.learning_rate for config in draws({"learning_rate": [0.1, "auto"]}, 9)}) == 2


def record(epoch, rate, loss):
    return EpochRecord(epoch, rate, 0, 0, 0, loss, loss, 0, None, 0)


def test_the_epochs_that_led_to_the_model_are_counted():
    losses = [5, 4, 3, 3.5, 3.6, 2.9, 2.8, 2.9, 3.0, 2.7]  # the third is the best before the decay after the fifth
    rates = [1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01]
    history = tuple(record(*values) for values in zip(range(1, 11), rates, losses, strict=True))
    assert [path_to(history, epoch) for epoch in (0, 3, 5, 6, 7, 9, 10)] == [
        *[(0, 0), (3, 0), (5, 0), (3, 1), (3, 2), (3, 4)],
        (3, 3),
    ]


def test_what_chooses_suits_the_settings(tmp_path):
    losses, weights = grid({"loss": ["softmax", "sigmoid"]}), grid({"class_weight": ["none", "balanced"]})
    path = tmp_path / "new"
    found = [select_of(path, configs) for configs in (grid({"l2": [0.0, 0.1]}), losses, weights)]
    assert found == ["loss", "accuracy", "balanced-accuracy"]
    with pytest.raises(ConfigError, match=r"losses of different kinds \(sigmoid and softmax\) cannot be compared"):
        SweepPlan(losses, (1,), SplitConfig(), "toy", "0" * 64)


def test_a_refit_does_not_decay_more_often_than_auto():
    class Done:
        summary: ClassVar = {"learning_rate": 0.5}
        kept_epoch = 20

        def read_checkpoint(self):
            rates = [0.5] * 4 + [0.05] * 16
            history = tuple(record(epoch, rate, 5 / epoch) for epoch, rate in enumerate(rates, 1))
            return None, TrainingState(None, {}, history)

    assert refit_config(TrainConfig(), [Done()]) == TrainConfig(
        learning_rate=0.5, epochs=20, keep="last", decay_every=7
    )
    fixed = TrainConfig(learning_rate=0.1, epochs=30, keep="last", decay_every=4)
    assert refit_config(fixed, [Done()]) == fixed
    assert refit_config(replace(fixed, keep="best"), [Done()]) == replace(fixed, epochs=20)


def test_a_refit_repeats_what_the_held_out_loss_decided(tmp_path):
    dataset = toy_splits().dataset
    noisy = np.where(np.random.default_rng(0).random(300) < 0.4, 0, dataset.labels)
    splits = split(replace(dataset, labels=noisy), SplitConfig())
    found = search(tmp_path / "sweep", plan_of(splits, (TrainConfig(l2=0.1),), (1, 2, 3)), splits, refit_best=True)
    runs = [found.sweep.run(0, seed) for seed in (1, 2, 3)]
    paths = [path_to(run.read_checkpoint()[1].history, run.summary["kept_epoch"]) for run in runs]
    config, (full, short) = found.refitted.config, zip(*paths, strict=True)
    assert (config.keep, config.learning_rate) == ("last", runs[0].summary["learning_rate"])
    assert sorted(short)[1] > 0, "no decay led to the model: this would test nothing"
    assert config.decay_every == sorted(full)[1]
    assert config.epochs == sorted(map(sum, paths))[1] < max(run.summary["kept_epoch"] for run in runs)
    for run in found.refitted.runs:
        again = Run.open(tmp_path / "sweep" / "refit" / "runs" / f"000-seed-{run.seed}")
        history = again.read_checkpoint()[1].history
        assert len(history) == config.epochs == again.summary["kept_epoch"]
        assert history[config.decay_every].learning_rate == pytest.approx(0.1 * config.learning_rate)
    assert refit(found.sweep, 0).read(0, 1).status == "complete", "the same settings again"
