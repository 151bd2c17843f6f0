"""Progress where no bar can be shown: lines with the time that is left, not too many of them."""

import re
from itertools import pairwise

import pytest

from onelayer.cli import screen
from onelayer.cli.screen import Lines, Screen
from onelayer.words import counted, duration, small_percent


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_seldom_and_say_the_time_that_is_left():
    clock = Clock()
    lines, printed = Lines(clock), {}
    for second in range(3600):
        clock.now = 100.0 + second
        if line := lines.due(second, 3600):
            printed[second] = line
    moments = list(printed)
    assert moments[:3] == [5, 15, 25]
    assert 20 < len(printed) < 60
    assert all(b - a >= max(10, a / 10) for a, b in pairwise(moments))
    assert printed[5] == "about 60 min left"
    assert printed[moments[-1]] == f"about {duration(3600 - moments[-1])} left"
    assert Lines(clock).due(0, 10) == ""
    late = Lines(clock)
    clock.now += 6
    assert late.due(10, 10) == "", "it is done"
    assert late.due(0, 10) == "just begun"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (98.7, "99 s"), (100, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_every_stage_says_its_progress_in_a_pipe(monkeypatch, capsys):
    monkeypatch.setattr(screen, "FIRST_LINE", 0.0)
    with Screen().stages() as on_progress:
        for stage in ("batch", "full"):
            for done in (1, 2, 4):
                on_progress(stage, done, 4, (0, 2))
    out, err = capsys.readouterr()
    assert [line.partition(", about ")[0] for line in out.splitlines()] == [
        f"{stage}: trained 1 of 4 epochs" for stage in ("batch", "full")
    ]
    assert out.count("s left") == 2
    assert err == ""


def test_runs_that_end_by_themselves_have_no_total_of_epochs(monkeypatch, capsys):
    monkeypatch.setattr(screen, "FIRST_LINE", 0.0)
    for noun, words in (("epoch", ", 70 epochs"), ("iteration", ", 70 iterations"), (None, "")):
        for runs, time in ((0, "just begun"), (1, r"about \d+ s left")):
            with Screen().stages(noun) as on_progress:
                on_progress("training", 70, None, (runs, 3))
            (line,) = capsys.readouterr().out.splitlines()
            assert re.fullmatch(rf"training: trained {runs} of 3 runs{words}, {time}", line)


@pytest.mark.parametrize(
    ("solvers", "noun"), [(["sgd"], "epoch"), (["converged"], "iteration"), (["sgd", "converged"], None)]
)
def test_a_sweep_counts_what_its_solver_does(solvers, noun, run_cli, monkeypatch):
    told, stages = [], Screen.stages
    monkeypatch.setattr(Screen, "stages", lambda self, *nouns: told.append(nouns) or stages(self, *nouns))
    assert run_cli("sweep", "--data", "digits", "--l2", "0.1", "--solver", *solvers, "--refit", "--out", "s")[0] == 0
    assert told == [(noun,)]


@pytest.mark.parametrize(("l2", "noted"), [(["0"], True), (["0", "0.1"], False)])
def test_a_sweep_without_a_penalty_is_noted(l2, noted, run_cli):
    out = run_cli("sweep", "--data", "digits", "--l2", *l2, "--solver", "converged", "--max-passes", "2")[1]
    assert "chosen by validation loss: " in out
    assert ("note: without a penalty (--l2 0), the optimum fits the training rows alone" in out) is noted


def test_work_says_what_it_does_now(monkeypatch, capsys):
    for seconds, line in ((0.0, "solving: l2 1, 2 passes, 50 %, about 0 s left"), (99.0, "")):
        monkeypatch.setattr(screen, "FIRST_LINE", seconds)
        with Screen().working("solving") as progress:
            progress(1, 2, "l2 1, 2 passes")
        assert re.sub(r"about \d", "about 0", capsys.readouterr().err) == line + "\n" * bool(line)
    monkeypatch.setattr(screen, "FIRST_LINE", 0.0)
    with Screen().working("certifying") as progress:
        progress(0, None, "looking")
    assert re.fullmatch(r"certifying: looking, \d s so far\n", capsys.readouterr().err)


def test_other_work_says_its_progress_on_standard_error(monkeypatch, capsys):
    monkeypatch.setattr(screen, "FIRST_LINE", 0.0)
    for quiet in (False, True):
        with Screen(quiet).working("drawing") as progress:
            progress(0, None)
            progress(1, 4)
            progress(4, 4)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("" if quiet else "drawing: 25 %, about ")
        assert err.count("\n") == (not quiet)


def test_the_screen_prints_names_as_they_are(capsys):
    screen = Screen()
    screen.say("runs/:cat:/")
    screen.table("class", rows=[[":dog:"]])
    assert capsys.readouterr().out.split() == ["runs/:cat:/", "class", ":dog:"]


def test_shares_and_counts_in_words():
    shares = [small_percent(share) for share in (1e-7, 0.00013, 0.1, 1.0)]
    assert shares == ["0.00001 %", "0.013 %", "10 %", "100 %"]
    counts = [counted(count, noun) for noun in ("pass", "row") for count in (1, 2000)]
    assert counts == ["1 pass", "2,000 passes", "1 row", "2,000 rows"]
