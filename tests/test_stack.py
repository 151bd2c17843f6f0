"""Stacks: many trainings that share each pass over the rows, and go the way that each would go alone."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from helpers import assert_one_line, coursework, relative, start, together, toy_splits

from onelayer.config import SplitConfig, TrainConfig
from onelayer.errors import DivergedError, RunError
from onelayer.experiments.sweep import Sweep, SweepPlan, grid, run_sweep
from onelayer.experiments.sweep.stacks import stacks_of
from onelayer.losses import LOSSES
from onelayer.runs.directory import Run
from onelayer.training import stack_rows
from onelayer.training.backends import devices
from onelayer.training.history import table_of
from onelayer.training.stack import Head, Stack, most_heads
from onelayer.training.stack_rows import StackRows
from onelayer.training.stacking import Stacking
from onelayer.training.state import Problem, TrainingState
from onelayer.training.train import train

AUTO = {"backend": ["numpy"], "dtype": ["float64"], "batch_size": [16]}


def libraries() -> list[object]:
    return ["numpy", pytest.param("torch", marks=needs_torch)]


def has_torch() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch") is not None


needs_torch = pytest.mark.skipif(not has_torch(), reason="PyTorch is missing")


def rows_of(problem: Problem, library: str = "numpy", **settings: object) -> StackRows:
    """Return the rows of a problem, for stacks of up to three heads of four classes."""
    config = replace(problem.config, **settings)
    given = problem.splits, problem.standardizer.for_training, config
    return StackRows.in_memory(*given) if library == "numpy" else StackRows.on_device(*given, columns=12)


@pytest.mark.parametrize("library", libraries())
@pytest.mark.parametrize(
    ("rows", "dtype", "tolerance"),
    [
        ("uint8", "float64", 1e-12),
        ("float16", "float32", 1e-4),
        ("float64", "float32", 1e-4),
    ],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.8}, {"loss": "sigmoid", "flip": True}, {"class_weight": "class 0=3,class 1=0.5"}],
    ids=["softmax", "momentum", "sigmoid and flips", "weights"],
)
def test_a_head_takes_the_steps_that_it_takes_alone(library, rows, dtype, tolerance, options, monkeypatch):
    splits = toy_splits(dtype=rows)
    config = TrainConfig(backend="numpy", dtype=dtype, batch_size=16, **options)
    problem = Problem.of(splits, config)
    rng, train = np.random.default_rng(1), problem.splits.train
    own = [(0.1, 0.0), (0.01, 0.3), (0.3, 0.01)]
    start = problem.begin().layer
    heads = [Head(start, rate, l2, config.momentum_taken) for rate, l2 in own]
    orders = [replace(train, indices=rng.permutation(train.indices)) for _ in range(2)]
    flipped = rng.random(len(train)) < 0.5 if config.flip else None
    if rows != "float64":  # the rows are resident, as on a GPU
        monkeypatch.setattr(devices, "room_on", lambda _: 1e9)
    place = rows_of(problem, library)
    with place.working():
        stack = place.stack(heads)
        for order in orders:
            place.train(stack, order, flipped, bool)
        totals = place.evaluate(stack, problem.splits.validation, bool)
    for (rate, l2), layer, velocity, total in zip(own, stack.layers, stack.velocities, totals, strict=True):
        alone = replace(problem, config=replace(config, l2=l2)).open(start)
        for order in orders:
            alone.run_epoch(order, rate, flipped, bool)
        assert np.abs(alone.layer.weights - start.weights).max() > 0.01
        np.testing.assert_allclose(layer.weights, alone.layer.weights, rtol=0, atol=tolerance)
        np.testing.assert_allclose(layer.bias, alone.layer.bias, rtol=0, atol=tolerance)
        assert layer.weights.dtype == layer.bias.dtype == np.dtype(dtype)
        assert (velocity is None) == (alone.velocity is None)
        if velocity:
            np.testing.assert_allclose(velocity[0], alone.velocity[0], rtol=0, atol=tolerance)
        expected = alone.evaluate(alone.layer, problem.splits.validation, bool)
        assert total.loss == pytest.approx(expected.loss, rel=10 * tolerance)
        assert total.right == pytest.approx(expected.right, abs=1e-9)


def test_evaluation_averages_views_and_is_cut_into_blocks(monkeypatch):
    splits = toy_splits()
    dataset = replace(splits.dataset, image_shape=None, views=2)
    validation = replace(splits.validation, dataset=dataset, indices=np.arange(100))
    problem = Problem.of(splits, TrainConfig(backend="numpy", dtype="float64"))
    layer = TrainingState.initial(60, 4, coursework(init_std=0.5, dtype="float64")).layer
    monkeypatch.setattr(stack_rows, "BLOCK_ROWS", 7)
    place = rows_of(replace(problem, splits=replace(problem.splits, train=validation)))
    (_, total) = place.evaluate(place.stack([Head(layer)] * 2), validation, bool)
    expected = problem.open(layer).evaluate(layer, validation, bool)
    assert (total.loss, total.right) == pytest.approx((expected.loss, expected.right), rel=1e-12)
    assert total.loss != pytest.approx(
        problem.open(layer).evaluate(layer, replace(validation, dataset=splits.dataset), bool).loss
    )


def test_a_diverged_head_enters_no_other():
    problem = Problem.of(toy_splits(), TrainConfig(backend="numpy", dtype="float64"))
    start, place = problem.begin().layer, rows_of(problem, batch_size=100)
    stack = place.stack([Head(start, 0.1), Head(start, 1e308), Head(start, 0.2)])
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(3):
            place.train(stack, problem.splits.train, None, bool)
    assert [bool(np.isfinite(layer.weights).all()) for layer in stack.layers] == [True, False, True]


@needs_torch
@pytest.mark.parametrize(("l2", "launches"), [(0.0, 6), (0.1, 7)])
def test_a_step_on_a_device_is_few_launches_for_any_number_of_heads_and_waits_for_none(l2, launches, monkeypatch):
    monkeypatch.setattr(devices, "room_on", lambda _: 1e9)
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counted(TorchDispatchMode):
        names: list[str]

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            views = ("slice", "permute", "view", "expand", "unsqueeze")
            if not any(word in str(function) for word in views):
                self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    problem = Problem.of(toy_splits(), TrainConfig(backend="numpy"))
    rows, counts = problem.splits.train, []
    for heads in (2, 13):
        stack = rows_of(problem, "torch", device="cpu").stack([Head(problem.begin().layer, 0.1, l2)] * heads)
        for batch in (len(rows), len(rows) // 5):
            place = rows_of(problem, "torch", device="cpu", batch_size=batch)
            with Counted() as counted:
                counted.names = []
                place.train(stack, rows, None, bool)
            assert not any("_local_scalar_dense" in name or "nonzero" in name for name in counted.names)
            counts.append(len(counted.names))
    assert counts[:2] == counts[2:]
    assert counts[1] - counts[0] == 4 * launches


def test_no_array_of_numpy_is_shared_with_the_heads():
    problem = Problem.of(toy_splits(), TrainConfig(backend="numpy", momentum=0.5))
    start, place = problem.begin().layer, rows_of(problem, batch_size=100)
    still = np.zeros_like(start.weights), np.zeros_like(start.bias)
    stack = place.stack([Head(start, 0.1, momentum=0.5, velocity=still)])
    place.train(stack, problem.splits.train, None, bool)
    (trained,) = stack.layers
    place.train(stack, problem.splits.train, None, bool)
    assert not start.weights.any()
    assert not still[0].any()
    assert not np.array_equal(trained.weights, stack.layers[0].weights)


def test_stacks_are_cut_to_fit_memory(monkeypatch, tmp_path):
    assert most_heads(768, 1000, 100) == 174
    assert most_heads(64, 10, 100) == 256
    assert most_heads(10**6, 1000, 100) == 1, "a single head has no choice"
    assert most_heads(10, 1000, 10**4) == 6
    splits = toy_splits()
    plan = plan_of(grid(AUTO | {"learning_rate": [0.1, 0.2, 0.3], "epochs": [1, 2], "batch_size": [16, 32]}))
    sweep = Sweep.create(tmp_path / "sweep", plan)
    rows = [sweep.read(setting, seed) for setting in range(12) for seed in (42, 43)]
    together = stacks_of(plan, rows, splits)
    assert sorted(map(len, together)) == [6] * 4
    for runs in together:
        assert len({(run.seed, plan.configs[run.setting].batch_size) for run in runs}) == 1
    monkeypatch.setattr("onelayer.training.stack.MOST_WEIGHTS", 4 * 60 * 4)
    assert sorted(map(len, stacks_of(plan, rows, splits))) == [2] * 4 + [4] * 4
    assert [len(runs) for runs in stacks_of(replace(plan, stack=False), rows, splits)] == [1] * 24


# Sweeps


def plan_of(configs: tuple[TrainConfig, ...], seeds: tuple[int, ...] = (42, 43), stack: bool = True) -> SweepPlan:
    fingerprint = toy_splits().dataset.fingerprint
    return SweepPlan(configs, seeds, SplitConfig(), "toy", fingerprint, stack=stack)


# Some end early, one decays to a better epoch, one diverges at once and one later.
OF_ALL_KINDS = grid(
    AUTO
    | {
        "batch_size": [60],
        "l2": [0.05],
        "learning_rate": [0.5, 0.1, 1e300, "auto"],
        "patience": [1, 2],
        "epochs": [12, "auto"],
    }
)


class Passes:
    """The numbers of heads that shared each pass of training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heads: list[int] = []
        original = StackRows.train

        def spy(rows: StackRows, stack: Stack, *rest: object) -> None:
            self.heads.append(stack.columns // 4)
            original(rows, stack, *rest)

        monkeypatch.setattr(StackRows, "train", spy)


def require_alike(a: Sweep, b: Sweep, tolerance: float = 1e-12) -> list[int]:
    """Require that all runs of two sweeps agree; return their numbers of epochs."""
    epochs = []
    for setting in range(len(a.plan.configs)):
        for seed in a.plan.seeds:
            found, expected = a.read(setting, seed), b.read(setting, seed)
            assert (found.status, found.note) == (expected.status, expected.note)
            (of_a, state_a), (of_b, state_b) = (sweep.run(setting, seed).read_checkpoint() for sweep in (a, b))
            assert of_a.config == of_b.config
            assert (state_a.rng_state, state_a.epoch, state_a.ended) == (
                state_b.rng_state,
                state_b.epoch,
                state_b.ended,
            )
            np.testing.assert_allclose(state_a.layer.weights, state_b.layer.weights, rtol=0, atol=tolerance)
            assert (state_a.best and state_a.best.epoch) == (state_b.best and state_b.best.epoch)
            mine, theirs = table_of(state_a.history), table_of(state_b.history)
            for name in mine.keys() - {"seconds"}:
                np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-9, atol=0, err_msg=name)
            epochs.append(state_a.epoch)
            if found.status == "complete":
                model_a, model_b = (sweep.run(setting, seed).model for sweep in (a, b))
                np.testing.assert_allclose(model_a.layer.weights, model_b.layer.weights, rtol=0, atol=tolerance)
    return epochs


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Sweep:
    """A sweep whose runs are trained one by one."""
    sweep = Sweep.create(tmp_path_factory.mktemp("alone") / "sweep", plan_of(OF_ALL_KINDS, stack=False))
    run_sweep(sweep, toy_splits())
    return sweep


def test_the_runs_of_a_stack_are_those_of_runs_alone(alone, tmp_path, monkeypatch):
    passes = Passes(monkeypatch)
    sweep = Sweep.create(tmp_path / "sweep", plan_of(OF_ALL_KINDS))
    run_sweep(sweep, toy_splits())
    epochs = require_alike(sweep, alone)
    assert len({*epochs}) > 4, "they end at different times"
    diverged = [run for run in range(16) if sweep.read(run, 42).status == "diverged"]
    assert diverged == [setting for setting in range(16) if OF_ALL_KINDS[setting].learning_rate == 1e300]
    assert max(passes.heads) == 16
    assert min(passes.heads) < 4, "heads that have ended leave"
    assert len(passes.heads) == sum(max(epochs[seed::2]) for seed in (0, 1)), "a pass for each epoch, and no more"
    summary = sweep.run(0, 42).summary
    assert (summary["stack"], summary["backend"], summary["config"]["backend"]) == (16, "numpy", "numpy")
    assert "stack" not in alone.run(0, 42).summary
    assert {path.name for path in sweep.run(0, 42).path.iterdir()} == {p.name for p in alone.run(0, 42).path.iterdir()}


@pytest.mark.parametrize("behind", [False, True])
def test_an_interrupted_stack_goes_on(alone, tmp_path, monkeypatch, behind):
    splits = toy_splits()
    sweep = Sweep.create(tmp_path / "sweep", plan_of(OF_ALL_KINDS))

    def stop(done: int, *_: object) -> None:
        if done >= 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, splits, workers=1, on_progress=stop)
    partial = [sweep.run(setting, 42) for setting in range(16) if sweep.read(setting, 42).status == "missing"]
    states = [run.read_checkpoint()[1] for run in partial]  # of which some may have ended, without a summary
    done = [state.epoch for state in states]
    assert len(done) > 6
    assert min(done) > 3
    if behind:  # as if it was killed before it had written a checkpoint
        shutil.rmtree(partial[0].path)
    passes = Passes(monkeypatch)
    run_sweep(Sweep.create(sweep.path, sweep.plan), splits, workers=1)
    epochs = require_alike(sweep, alone)
    first = passes.heads[: min(done) - 1]
    assert (set(first) == {1}) == behind, "the one that is behind catches up alone"
    start = 0 if behind else min(state.epoch for state in states if not state.ended)
    left = max(epochs[::2]) - start, max(epochs[1::2])
    assert len(passes.heads) == sum(left), "a pass for each epoch that is left, and no more"


@needs_torch
def test_a_stack_on_a_device_of_pytorch(alone, tmp_path):
    configs = tuple(replace(config, backend="torch") for config in OF_ALL_KINDS)  # on a GPU, where there is one
    sweep = Sweep.create(tmp_path / "sweep", plan_of(configs))
    run_sweep(sweep, toy_splits())
    for setting in range(len(configs)):
        found, expected = sweep.read(setting, 42), alone.read(setting, 42)
        assert (found.status, found.note) == (expected.status, expected.note)
        if found.status == "complete":
            models = (of.run(setting, 42).model.layer.weights for of in (sweep, alone))
            np.testing.assert_allclose(*models, rtol=0, atol=1e-12)
            summary = sweep.run(setting, 42).summary
            assert (summary["backend"], summary["stack"]) == ("torch", 16)
            assert summary["device"].startswith(devices.choose_device("auto"))


def seat_of(stacking: Stacking, problem: Problem, **settings: object) -> object:
    """Return the backend of the first training of a stacking, which makes room for the rows."""
    config = TrainConfig(backend="torch", momentum=0.0, **settings)
    return stacking.seats[0](problem.splits, config, problem.standardizer.for_training, problem.begin().layer)


@pytest.fixture
def held(monkeypatch) -> list[object]:
    """The data sets that are put on a device, one for each stack that asks for one."""
    from onelayer.training.backends.feed import Held

    found, original = [], Held.on.__func__
    monkeypatch.setattr(Held, "on", classmethod(lambda *given: found.append(original(*given)) or found[-1]))
    return found


@needs_torch
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9, "l2": 0.1}, {"flip": True}, {"class_weight": "balanced"}], ids=str
)
def test_a_stack_whose_rows_a_device_has_no_room_for_has_the_same_bits(options, held, monkeypatch):
    monkeypatch.setattr(devices, "CPU_NUMBERS", 2**12)  # blocks of two batches
    monkeypatch.setattr(devices, "GPU_NUMBERS", 2**12)
    config, found = TrainConfig(backend="torch", threads=1, epochs=2, batch_size=32, **options), []
    for room in (0.0, 1e9):
        monkeypatch.setattr(devices, "room_on", lambda _, room=room: room)
        results = together(toy_splits(), [replace(config, learning_rate=rate) for rate in (0.01, 0.1)], "torch")
        found.append([(result.model.layer.weights.tobytes(), result.scores) for result in results])
    assert [of_stack.rows is None for of_stack in held] == [True, False]
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


@needs_torch
def test_a_stack_rounds_factors_to_bfloat16_as_runs_alone_do():
    # The rate goes into a factor before it is rounded, which a power of two does not change.
    config = TrainConfig(backend="torch", device="cpu", threads=1, epochs=2, learning_rate=2**-4)
    rough = [replace(config, precision="bfloat16", l2=l2) for l2 in (0.0, 0.1)]
    for found, alone in zip(together(toy_splits(), rough, "torch"), rough, strict=True):
        expected, full = train(toy_splits(), alone), train(toy_splits(), replace(alone, precision="full"))
        ours, theirs, exact = (result.model.layer.weights for result in (found, expected, full))
        assert relative(ours, theirs) < 1e-6
        assert 1e-4 < relative(exact, theirs) < 2e-2


@needs_torch
def test_stacks_share_the_rows_on_a_device(held, monkeypatch):
    monkeypatch.setattr(devices, "room_on", lambda _: 1e9)
    problem = Problem.of(toy_splits(), TrainConfig(backend="numpy"))
    stackings = [Stacking([0], "torch") for _ in range(2)]  # which hold the rows
    for stacking in stackings:
        seat_of(stacking, problem)
    first, second = held
    assert first is second
    np.testing.assert_array_equal(first.rows, problem.splits.dataset.rows)


@needs_torch
def test_a_stack_that_fills_a_device_says_how_much_is_needed(monkeypatch):
    import torch

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(LOSSES["softmax"], "tensor_residual", full)
    configs = [TrainConfig(backend="torch", device="cpu", threads=1, learning_rate=rate) for rate in (0.01, 0.1)]
    wanted = (
        r"the device cpu is out of memory: a stack needs about \d+ MiB beside the rows; lower --batch-size, or leav"
    )
    for error in together(toy_splits(), configs, "torch"):
        assert re.fullmatch(wanted + "e --stack out", str(error))


@needs_torch
def test_a_stack_rounds_factors_in_training_only(monkeypatch):
    asked, original = [], devices.Device.working

    def spy(device: object, what: str, needed: int, precision: str, **words: str) -> object:
        asked.append(precision)
        return original(device, what, needed, precision, **words)

    monkeypatch.setattr(devices.Device, "working", spy)
    problem = Problem.of(toy_splits(), TrainConfig(backend="numpy"))
    backend = seat_of(Stacking([0], "torch"), problem, precision="tf32")
    backend.run_epoch(problem.splits.train, 0.1, None, bool)
    backend.evaluate(backend.layer, problem.splits.validation, bool)
    assert asked == ["full", "tf32", "full"]  # rows, training, scores


def test_the_last_test_rows_of_a_stack_and_balanced_accuracy(tmp_path):
    splits, found = toy_splits(), []
    for stack in (False, True):
        configs = grid(AUTO | {"learning_rate": [0.1, 0.01], "epochs": [3]})
        plan = replace(plan_of(configs, stack=stack), select="balanced-accuracy")
        sweep = Sweep.create(tmp_path / str(stack), plan)
        run_sweep(sweep, splits)
        run_sweep(sweep, splits, settings=[0], report_test=True)
        assert [sweep.run(setting, 42).summary.get("stack") for setting in (0, 1)] == [2 if stack else None] * 2
        found.append([sweep.read(setting, 42) for setting in (0, 1)])
    assert found[1][0].scores["test"].loss == pytest.approx(found[0][0].scores["test"].loss, rel=1e-12)
    for alone, stacked in zip(*found, strict=True):
        assert stacked.balanced_accuracy == alone.balanced_accuracy


def test_an_error_in_one_run_ends_the_others_with_a_checkpoint(tmp_path, monkeypatch):
    splits, original = toy_splits(), Run.write_result
    sweep = Sweep.create(tmp_path / "sweep", plan_of(grid(AUTO | {"epochs": [2, 100_000], "l2": [0.0, 0.1]}), (42,)))

    def full(run: Run, plan: object, *rest: object) -> None:
        raise RunError("no space left")

    monkeypatch.setattr(Run, "write_result", full)
    with pytest.raises(RunError, match="no space left"):
        run_sweep(sweep, splits)
    assert threading.active_count() < 4
    short = [setting for setting in range(4) if sweep.plan.configs[setting].epochs == 2]
    assert all(sweep.run(setting, 42).read_checkpoint()[1].epoch for setting in {*range(4)} - {*short})
    monkeypatch.setattr(Run, "write_result", original)
    run_sweep(sweep, splits, settings=short)
    assert [sweep.read(setting, 42).status for setting in short] == ["complete"] * 2


@pytest.mark.parametrize("most", [1, 2, 4])
def test_a_system_that_starts_no_more_threads_is_told_and_nothing_waits(tmp_path, monkeypatch, most):
    splits, original, started = toy_splits(), threading.Thread.start, []
    sweep = Sweep.create(
        tmp_path / "sweep", plan_of(grid(AUTO | {"epochs": [100_000], "l2": [0.0, 0.1, 0.2, 0.3]}), (42,))
    )

    def full(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) > most:
            raise RuntimeError("can't start new thread")
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", full)
    with pytest.raises(RunError, match=r"starts no more threads, of which a stack of 4 runs has one for each; raise"):
        run_sweep(sweep, splits)


def test_the_heads_of_a_stack_are_in_the_order_of_the_seats_whoever_comes_first(monkeypatch):
    rates, heads, came = (0.1, 0.2, 0.3), [], []
    begin, call = Stack.__init__, Stacking.call

    def begin_and_tell(stack: Stack, given: list[Head], *rest: object) -> None:
        heads.append([head.learning_rate for head in given])
        begin(stack, given, *rest)

    def come_and_call(stacking: Stacking, *rest: object) -> object:
        came.append(rest)
        return call(stacking, *rest)

    monkeypatch.setattr(Stack, "__init__", begin_and_tell)
    monkeypatch.setattr(Stacking, "call", come_and_call)
    problem = Problem.of(toy_splits(), TrainConfig(backend="numpy"))
    seats = Stacking([0] * 3).seats

    def one(place: int) -> None:
        backend = replace(problem, backend=seats[place]).open(problem.begin().layer)
        backend.run_epoch(problem.splits.train, rates[place], None, bool)

    threads = [threading.Thread(target=one, args=(place,)) for place in (2, 0, 1)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        while len(came) < number:
            time.sleep(0.001)
    for thread in threads:
        thread.join(20)
    assert heads == [[*rates]]


def test_trainings_need_no_sweep():
    splits, config = toy_splits(), TrainConfig(backend="numpy", dtype="float64", threads=1, epochs=3)
    configs = [replace(config, learning_rate=rate) for rate in (0.1, 1e308, 0.3)]
    results = together(splits, configs)
    assert isinstance(results[1], DivergedError)
    for number in (0, 2):
        expected = train(splits, configs[number])
        np.testing.assert_allclose(results[number].model.layer.weights, expected.model.layer.weights, atol=1e-12)
        assert results[number].scores["test"].loss == pytest.approx(expected.scores["test"].loss, rel=1e-12)


# The command

DIGITS = [
    *("sweep", "--data", "digits", "--stack", "--learning-rate", "0.3", "0.1", "1e300"),
    *("--dtype", "float64", "--epochs", "60", "--keep", "last"),
]


def test_a_killed_command_goes_on_to_what_an_uninterrupted_one_finds(run_cli, tmp_path):
    command = [sys.executable, "-m", "onelayer", *DIGITS, "--out", "killed"]
    with start(command, cwd=tmp_path, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        while len([*tmp_path.rglob("checkpoint.safetensors")]) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait(20)
    assert not [*tmp_path.rglob("sweep.csv")]
    assert run_cli(*DIGITS, "--out", "killed")[0] == 0
    code, out, _ = run_cli(*DIGITS, "--out", "whole")
    assert code == 0
    assert "1 diverged" in out
    require_alike(Sweep.open(tmp_path / "killed"), Sweep.open(tmp_path / "whole"))


def test_settings_that_make_no_stack(run_cli, tmp_path):
    for words, message in {
        "--solver converged": "--stack is for the solver sgd, not for converged; leave it out",
        "--shuffle-blocks 0 10": "--stack reads the rows in any order; leave it out, or --shuffle-blocks",
        "--backend native": "--stack multiplies in numpy or torch, not in native; leave --stack or --backend out",
    }.items():
        assert_one_line(run_cli("sweep", "--data", "digits", "--stack", "--out", "S", *words.split()), message)
    assert list(tmp_path.iterdir()) == []
    sweep = Sweep.create(tmp_path / "sweep", plan_of(OF_ALL_KINDS[:1]))
    with pytest.raises(RunError, match="is another sweep: its runs are trained in stacks, not one by one; choose"):
        Sweep.create(sweep.path, replace(sweep.plan, stack=False))
