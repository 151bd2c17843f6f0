"""The list of runs."""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers import TINY, assert_one_line
from rich.console import Console

from onelayer.cli.screen import Screen
from onelayer.files import read_json, write_json
from onelayer.runs.listing import ALWAYS, ListedRun, settings_that_differ


@pytest.fixture
def many(run_cli, trained, tmp_path) -> Path:
    """Three complete runs of other settings, scores and dates, one that is incomplete and one that is damaged."""
    for number, (name, rate, accuracy, test) in enumerate(
        [("b", 0.05, 0.3, 0.25), ("a", 0.005, 0.5, 0.35), ("c", 0.5, 0.4, None)]
    ):
        run = shutil.copytree(trained, tmp_path / "runs" / name)
        summary = read_json(run / "summary.json")
        summary["config"]["learning_rate"] = rate
        summary["results"]["validation"] |= {"accuracy": accuracy, "loss": 1 + accuracy}
        summary["results"]["test"] |= {"accuracy": test}
        if test is None:
            del summary["results"]["test"]
        summary["dates"]["started"] = f"2020-09-{13 + number}T12:00:00+00:00"
        if name == "a":  # as in an older run
            del summary["dates"]
        write_json(run / "summary.json", summary)
        (run / "checkpoint.safetensors").write_text("not read")
        day = 1_600_000_000 + 86_400 * number
        os.utime(run / "summary.json", (day, day))
    for name in ("stopped", "damaged"):
        shutil.copytree(trained, tmp_path / "runs" / "deeper" / name)
    (tmp_path / "runs/deeper/stopped/summary.json").unlink()
    text = (tmp_path / "runs/deeper/damaged/summary.json").read_text()
    (tmp_path / "runs/deeper/damaged/summary.json").write_text(text.replace('"seed": 42', '"seed": 43', 1))
    (tmp_path / "runs" / "photos").mkdir()
    (tmp_path / "runs" / "photos" / "a.png").write_text("of others")
    return tmp_path / "runs"


def listed(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if line.startswith("runs/")]


def test_runs_are_listed_by_their_summaries_alone(run_cli, many):
    code, out, err = run_cli("runs")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split()[:4] == ["run", "date", "data", "settings"]
    c, a, b = listed(out)  # the newest first
    assert [line[0] for line in (c, a, b)] == ["runs/c", "runs/a", "runs/b"]
    assert c[1].startswith("2020-09-")
    assert " ".join(c[3:8]) == "CIFAR-10, batch learning rate 0.5"
    assert a[9:12] == ["50.00", "35.00", "1.5000"]
    assert c[9:12] == ["40.00", "-", "1.4000"]
    assert "note: runs/deeper/stopped is not complete; go on with: onelayer resume runs/deeper/stopped" in out
    assert "note: runs/deeper/damaged/summary.json: damaged (its checksum is wrong" in out


def test_a_narrow_terminal_shows_whole_names_dates_and_figures(run_cli, many, monkeypatch):
    wide = run_cli("runs")[1]
    monkeypatch.setattr(Screen, "__init__", narrow)
    lines = run_cli("runs")[1].splitlines()
    assert max(map(len, lines[:4])) <= 80
    assert lines[0].split() == ["run", "date", "settings", "validation", "(%)", "test", "(%)", "loss"]
    assert [line.split()[0] for line in lines[1:4]] == ["runs/c", "runs/a", "runs/b"]
    assert lines[1].split()[-3:] == ["40.00", "-", "1.4000"]
    assert "left out: data, train (%), seconds; onelayer runs | cat shows all" in lines
    assert "left out: data" not in wide


def narrow(self: Screen, quiet: bool = False) -> None:
    self._quiet, self._console = quiet, Console(highlight=False, emoji=False, width=80)


def test_a_fit_that_the_data_decided_is_no_difference():
    def run(data: str, fit: str) -> ListedRun:
        return ListedRun(Path(data), {"data": data}, {"fit": fit, "l2": 0.0})

    assert settings_that_differ([run("photos", "crop"), run("digits", "auto")]) == ALWAYS
    assert settings_that_differ([run("photos", "crop"), run("photos", "pad"), run("digits", "auto")]) == ("fit",)


@pytest.mark.parametrize(
    ("column", "order"),
    [("run", "abc"), ("lr", "abc"), ("learning-rate", "abc"), ("validation", "acb"), ("loss", "bca"), ("test", "abc")],
)
def test_runs_are_sorted_by_any_column(run_cli, many, column, order):
    assert [line[0][-1] for line in listed(run_cli("runs", "--sort", column)[1])] == list(order)


def test_balanced_accuracy_is_listed_where_classes_have_weights(run_cli, many):
    assert "balanced" not in run_cli("runs")[1]
    for name, balanced in (("a", 0.25), ("b", 0.75)):
        summary = read_json(many / name / "summary.json")
        summary["config"]["class_weight"] = "balanced" if name == "b" else "none"
        summary["evaluation"] = summary.get("evaluation", {}) | {"balanced_accuracy": balanced}
        write_json(many / name / "summary.json", summary)
    out = run_cli("runs", "--sort", "balanced")[1]
    assert "balanced (%)" in out.splitlines()[0]
    assert "balanced: the balanced accuracy of the test rows" in out
    lines = {line[0]: line for line in listed(out)}
    assert (lines["runs/b"][-3], lines["runs/a"][-3]) == ("75.00", "25.00")
    assert [line[0] for line in listed(out)][:2] != ["runs/a", "runs/b"]


def test_what_cannot_be_listed_is_one_line(run_cli, many, tmp_path):
    assert_one_line(run_cli("runs", "nowhere"), "nowhere: no such folder; pass the folder that holds your runs")
    assert_one_line(
        run_cli("runs", "--sort", "beauty"), "--sort beauty is not a column or a setting; take one of run, "
    )
    (tmp_path / "none").mkdir()
    assert run_cli("runs", "none") == (0, "none: holds no runs\n", "")
    for content in ({"config": []}, {"config": {}, "data": "x"}, {"config": 1, "data": {"name": 1}, "seconds": "long"}):
        summary = read_json(many / "a" / "summary.json") | content
        write_json(many / "a" / "summary.json", summary)
        assert "note: runs/a/summary.json: damaged (" in run_cli("runs")[1], json.dumps(content)


def test_the_runs_of_sweeps_are_left_out_unless_asked_for(run_cli, tiny_cifar, trained, tmp_path):
    words = ["--data", tiny_cifar, "--epochs", "1", "--lr", "0.01", "0.1", "--quiet"]
    assert run_cli("sweep", *words, "--out", "runs/sweep")[0] == 0
    assert run_cli("train", "--data", tiny_cifar, "--out", "runs/one", "--quiet", *TINY)[0] == 0
    out = run_cli("runs")[1]
    assert [line[0] for line in listed(out)] == ["runs/one"]
    assert "left out: 1 folder of sweeps and studies; pass --sweeps, or pass one of them" in out
    places = ["runs/sweep/runs/000-seed-42", "runs/sweep/runs/001-seed-42"]
    assert [line[0] for line in listed(run_cli("runs", "--sweeps", "--sort", "run")[1])] == ["runs/one", *places]
    assert [line[0] for line in listed(run_cli("runs", "runs/sweep", "--sort", "run")[1])] == places
    assert [line[0] for line in listed(run_cli("runs", "runs/one")[1])] == ["runs/one"]
