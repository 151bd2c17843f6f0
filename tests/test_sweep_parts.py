"""A sweep in parts: several processes share its directory, overlap in nothing, and end with what one process writes."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Timer

import pytest
from helpers import assert_one_line, start, toy_splits
from hypothesis import given
from hypothesis import strategies as st

from onelayer.config import COURSEWORK, SplitConfig, TrainConfig
from onelayer.errors import ConfigError, RunError
from onelayer.experiments.sweep import Sweep, SweepPlan, claim_to_collect, grid, part_of, search, train_part
from onelayer.experiments.sweep.parts import missing_runs
from onelayer.runs.claim import CLAIM, claimed

OF_COURSEWORK = {name: [value] for name, value in COURSEWORK.settings.items()}
CONFIGS = grid(OF_COURSEWORK | {"learning_rate": [0.05, 0.001, 1e300], "epochs": [2, 3]})
DIGITS = ["sweep", "--data", "digits", "--epochs", "3", "--learning-rate", "0.1", "0.01", "--seeds", "3"]


def plan_of(configs: tuple[TrainConfig, ...] = CONFIGS, parts: int = 4, seeds: int = 2) -> SweepPlan:
    numbers = tuple(range(42, 42 + seeds))
    return SweepPlan(configs, numbers, SplitConfig(), "toy", toy_splits().dataset.fingerprint, parts=parts)


def bits(path: Path) -> dict[str, bytes]:
    """Return the bytes of all files that hold neither times nor the number of parts."""
    names = ("sweep.csv", "model.safetensors", "diverged.txt")
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.name in names}


@given(
    epochs=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    rates=st.lists(st.floats(1e-3, 1), min_size=1, max_size=6),
    seeds=st.integers(1, 5),
    parts=st.integers(1, 40),
)
def test_parts_overlap_in_nothing_leave_nothing_out_and_have_alike_work(epochs, rates, seeds, parts):
    plan = plan_of(grid({"epochs": epochs, "learning_rate": rates}), parts, seeds)
    of_parts = [plan.runs_of(part) for part in range(1, parts + 1)]
    whole = [(setting, seed) for setting in range(len(plan.configs)) for seed in plan.seeds]
    assert sorted(run for runs in of_parts for run in runs) == whole
    for number in {*epochs}:
        counts = [sum(plan.configs[setting].epochs == number for setting, _ in runs) for runs in of_parts]
        assert max(counts) - min(counts) <= 1
    assert max(map(len, of_parts)) - min(map(len, of_parts)) <= 1


def test_parts_in_any_order_end_as_one_process_does(tmp_path):
    splits, plan = toy_splits(), plan_of()
    alone = search(tmp_path / "alone", plan_of(parts=1), splits)
    trained = {}
    for part in (3, 1, 4, 2):
        sweep = train_part(tmp_path / "parts", plan, part, splits, workers=1)
        before = trained
        trained = {path: path.stat().st_mtime_ns for path in sweep.path.glob("runs/*/*")}
        assert before.items() <= trained.items(), "the runs of other parts are left alone"
        assert {path.parent for path in trained.keys() - before} == {sweep.run(*run).path for run in plan.runs_of(part)}
        with ExitStack() as held:
            assert claim_to_collect(sweep, held) == (part == 2), "the last one collects"
    found = search(sweep.path, plan, splits)
    assert bits(sweep.path) == bits(alone.sweep.path)
    assert len(bits(sweep.path)) == 1 + 12
    assert found.best.config == alone.best.config
    assert found.results == alone.results


def test_a_refit_is_not_divided(tmp_path):
    splits, plan = toy_splits(), plan_of(CONFIGS[:2])
    for part in range(1, 5):
        sweep = train_part(tmp_path / "sweep", plan, part, splits)
    found = search(sweep.path, plan, splits, refit_best=True)
    assert Sweep.open(sweep.path / "refit").plan.parts == 1
    assert [run.status for run in found.refitted.runs] == ["complete"] * 2


def test_the_same_part_is_refused_while_it_runs_and_others_are_not(tmp_path):
    splits, plan = toy_splits(), plan_of()
    sweep = Sweep.create(tmp_path / "sweep", plan)
    program = (
        "import sys\nfrom pathlib import Path\nfrom onelayer.runs.claim import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    print(flush=True)\n    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", program, str(sweep.part_path(2))]
    with start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        with pytest.raises(RunError, match=rf"parts/2: process {process.pid} on .* has worked there since .*; wait"):
            train_part(sweep.path, plan, 2, splits)
        with pytest.raises(RunError, match=r"parts/2: process .* has worked there"):
            Sweep.create(sweep.path, plan_of(parts=3), overwrite=True)
        train_part(sweep.path, plan, 1, splits)
        assert len(missing_runs(sweep)[2]) == 3
        assert 1 not in missing_runs(sweep)
        process.communicate("\n")
    train_part(sweep.path, plan, 2, splits)
    assert [*missing_runs(sweep)] == [3, 4]


def test_a_part_of_another_plan_is_refused(tmp_path):
    splits = toy_splits()
    train_part(tmp_path / "sweep", plan_of(), 1, splits)
    others = {
        "its runs are divided into 4 parts, not 3": plan_of(parts=3),
        "its runs are divided into 4 parts, not 1": plan_of(parts=1),
        "its learning rate is 0.05, 0.001, 1e\\+300, not 0.05": plan_of(CONFIGS[:2]),
        "its seeds are 42, 43, not 42": plan_of(seeds=1),
    }
    for message, plan in others.items():  # to overwrite would remove the runs of the other parts
        own = "choose another --out or pass" if plan.parts == 1 else "give every part the same options, or choose"
        with pytest.raises(RunError, match=f"is another sweep: {message}.*; {own}"):
            train_part(tmp_path / "sweep", plan, 1, splits)
    shutil.rmtree(tmp_path / "sweep" / "parts")
    assert Sweep.create(tmp_path / "sweep", plan_of(parts=1), overwrite=True).plan.parts == 1
    with pytest.raises(RunError, match="its runs are divided into 1 part, not 4"):
        train_part(tmp_path / "sweep", plan_of(), 1, splits)


def test_the_last_of_two_that_end_together_collects(tmp_path):
    splits, plan = toy_splits(), plan_of(parts=1)
    sweep = train_part(tmp_path / "sweep", plan, 1, splits)
    content = {"host": "node7", "pids": "", "pid": 1, "process": "", "since": "now"}
    (sweep.path / CLAIM).write_text(json.dumps(content))  # the other one collects
    with ExitStack() as held:
        assert not claim_to_collect(sweep, held)
    (sweep.path / CLAIM).unlink()
    with ExitStack() as held:
        assert claim_to_collect(sweep, held)
        assert (sweep.path / CLAIM).exists()


def test_a_part_waits_for_another_one_that_writes_the_plan(tmp_path):
    path = tmp_path / "sweep"
    with claimed(path):
        pass
    (path / CLAIM).write_text(json.dumps({"host": "node7", "pids": "", "pid": 1, "process": "", "since": "now"}))
    with pytest.raises(RunError, match="process 1 on node7 has worked there since now; wait"):
        Sweep.create(path, plan_of(parts=1))
    Timer(0.3, (path / CLAIM).unlink).start()
    assert Sweep.create(path, plan_of()).plan.parts == 4


def test_what_a_part_left_behind_on_another_machine_does_not_stop_it(tmp_path):
    splits, plan = toy_splits(), plan_of()
    sweep = Sweep.create(tmp_path / "sweep", plan)
    left = {"host": "node7", "pids": "", "pid": 1, "process": "", "since": "now"}
    for run in (sweep.run(*plan.runs_of(1)[0]), sweep.run(*plan.runs_of(2)[0])):
        with claimed(run.path):
            pass
        (run.path / CLAIM).write_text(json.dumps(left))
    train_part(sweep.path, plan, 1, splits)
    assert 1 not in missing_runs(sweep)
    assert (sweep.run(*plan.runs_of(2)[0]).path / CLAIM).exists(), "it is that of another part"


@pytest.mark.parametrize("words", ["0/16", "17/16", "x/y", "3", "3/", "-1/4", "1/0", "٣/٤", "1/4/5", "1 / 4", "1.0/2"])
def test_bad_parts(run_cli, tmp_path, words):
    with pytest.raises(ConfigError, match="is not a part and their number, such as 3/16 for the third of 16 parts"):
        part_of(words)
    if words in ("0/16", "17/16", "x/y"):
        assert_one_line(run_cli(*DIGITS, f"--part={words}", "--out", "S"), f"part '{words}' is not a part")
        assert not (tmp_path / "S").exists()


def test_options_that_do_not_go_with_parts(run_cli, tmp_path):
    for words, message in {
        "--part 1/2": "--part needs the directory that all parts share; pass --out",
        "--collect": "--collect needs the directory that all parts share; pass --out",
        "--part 1/2 --collect --out S": "--part trains runs and --collect trains none; leave one out",
        "--part 1/2 --overwrite --out S": "--overwrite would remove the runs of the other parts; leave it out",
        "--collect --out S --l2 1": "--collect takes the settings of the sweep in --out; leave out all other options",
        "--collect --out S": "S is not a sweep of onelayer: it has no sweep.json",
    }.items():
        assert_one_line(run_cli("sweep", *words.split()), message)
    assert list(tmp_path.iterdir()) == []


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def test_processes_that_start_at_the_same_moment_share_a_directory(run_cli, tmp_path):
    """The recipe for Slurm, with a loop in place of sbatch."""
    task = f'exec "$0" -m onelayer {" ".join(DIGITS)} --part "$SLURM_ARRAY_TASK_ID/2" --out shared --workers 1'
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    made = [
        subprocess.Popen(
            ["sh", "-c", task, sys.executable], env=environment() | {"SLURM_ARRAY_TASK_ID": str(part)}, **options
        )
        for part in (1, 2)
    ]
    said = [process.communicate(timeout=120) for process in made]
    assert [process.returncode for process in made] == [0] * 2, said
    for part, (out, err) in enumerate(said, 1):
        assert err == ""
        assert out.startswith(f"part {part}/2 of shared: 3 runs complete")
    assert any("chosen by validation loss: learning rate 0.1" in out for out, _ in said)
    assert run_cli(*DIGITS, "--out", "alone")[0] == 0
    assert bits(tmp_path / "shared") == bits(tmp_path / "alone")
    with (tmp_path / "shared/sweep.csv").open(newline="") as file:
        assert sum(bool(row["test_accuracy"]) for row in csv.DictReader(file)) == 3
    assert not [*(tmp_path / "shared").rglob(f"{CLAIM}*")]


def test_a_killed_part_is_run_again_and_collect_names_it_until_then(run_cli, tmp_path):
    words = ["sweep", "--data", "digits", "--epochs", "300", "--learning-rate", "0.1", "0.01", "--out", "shared"]
    assert run_cli(*words, "--part", "2/2", "--workers", "1")[0] == 0
    command = [sys.executable, "-m", "onelayer", *words, "--part", "1/2", "--workers", "1"]
    checkpoint = tmp_path / "shared/runs/000-seed-42/checkpoint.safetensors"
    with start(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not checkpoint.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait(timeout=20)
    answer = run_cli("sweep", "--collect", "--out", "shared")
    assert_one_line(answer, "shared: 1 run missing, of part 1/2; wait for them, or run these parts again")
    code, out, _ = run_cli(*words, "--part", "1/2")
    assert code == 0
    assert "chosen by validation loss" in out
    before = bits(tmp_path / "shared")
    assert run_cli("sweep", "--collect", "--out", "shared")[0] == 0
    assert bits(tmp_path / "shared") == before
    assert run_cli(*words[:-1], "alone")[0] == 0
    assert before == bits(tmp_path / "alone")
