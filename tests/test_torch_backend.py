"""The backend torch: against NumPy in float64, the same bits each time, and nothing that waits within an epoch."""

import re
import subprocess
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import assert_one_line, coursework, opened, relative, together, toy_dataset, toy_splits
from threads import in_threads

from onelayer import SoftmaxClassifier, train
from onelayer.config import TrainConfig
from onelayer.data.dataset import Holding, Splits
from onelayer.errors import ConfigError
from onelayer.features.standardizer import Standardizer
from onelayer.losses import LOSSES
from onelayer.runs.directory import Run
from onelayer.training.backends import devices
from onelayer.training.backends.pytorch import TorchBackend
from onelayer.training.backends.registry import choose_backend
from onelayer.training.converging.rows import Rows
from onelayer.training.state import TrainingState, with_flips

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from onelayer.training.backends.feed import Held  # noqa: E402
from onelayer.training.backends.replay import Replay  # noqa: E402
from onelayer.training.converging.device_rows import DeviceRows  # noqa: E402

SETTINGS = {
    "plain": {},
    "sigmoid": {"loss": "sigmoid"},
    "penalty": {"l2": 0.1},
    "momentum": {"momentum": 0.9, "l2": 0.1, "init_std": 0.0},
    "flip": {"flip": True},
    "decay": {"decay_every": 1, "decay_factor": 0.5},
    "blocks": {"shuffle_blocks": 20},
    "weights": {},
    "balanced": {"class_weight": "balanced"},  # is trained with weights, and scored without
}
WEIGHTED = ("weights", "sigmoid", "momentum", "blocks")


def weighted(splits):
    weights = np.random.default_rng(0).choice([0, 0.25, 1, 3], len(splits.dataset.rows))
    dataset = replace(splits.dataset, row_weights=weights)
    parts = {part.name: replace(part, dataset=dataset) for part in splits}
    return replace(splits, **parts)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 128 rows, so that there are several."""
    monkeypatch.setattr(devices, "CPU_NUMBERS", 2**13)
    monkeypatch.setattr(devices, "GPU_NUMBERS", 2**13)


@pytest.fixture
def resident(monkeypatch):
    """Room for rows on the device; the CPU takes those of the host otherwise."""
    monkeypatch.setattr(devices, "room_on", lambda device: 1e9)


@pytest.mark.parametrize("rows", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_it_trains_as_numpy_does_in_float64(rows, setting):
    splits = weighted(toy_splits(dtype=rows)) if setting in WEIGHTED else toy_splits(dtype=rows)
    exact = coursework(epochs=2, learning_rate=0.05, batch_size=32, dtype="float64", **SETTINGS[setting])
    reference = train(splits, replace(exact, backend="numpy"))
    moved = reference.model.layer.weights - TrainingState.initial(60, 4, exact).layer.weights
    assert np.linalg.norm(moved) > 0.1
    for dtype, error in (("float64", 1e-12), ("float32", 1e-5)):
        found = train(splits, replace(exact, dtype=dtype, backend="torch"))
        assert (found.backend, found.model.layer.weights.dtype) == ("torch", dtype)
        assert relative(found.model.layer.weights, reference.model.layer.weights) < error
        assert relative(found.model.layer.bias, reference.model.layer.bias) < error
        for name, score in found.scores.items():
            assert score.loss == pytest.approx(reference.scores[name].loss, rel=error)


def test_views_are_scored_by_their_average():
    dataset = toy_dataset(n=240)
    dataset = replace(dataset, labels=np.repeat(dataset.labels[::2], 2), views=2)
    config = coursework(dtype="float64")
    layer = TrainingState.initial(60, 4, config).layer
    of_rows = Standardizer.fit([dataset.rows])
    found = opened(TorchBackend, dataset.everything, of_rows, layer).evaluate(layer, dataset.everything, bool)
    S = layer.logits(of_rows.transform(dataset.rows)).reshape(120, 2, 4).mean(axis=1)
    losses = layer.loss.of_rows(S, dataset.labels[::2])
    assert found.loss == pytest.approx(2 * losses.sum(), rel=1e-12)
    assert found.right == 2 * np.count_nonzero(S.argmax(1) == dataset.labels[::2]) > 0


@pytest.mark.parametrize("setting", ["plain", "momentum", "flip", "blocks"])
def test_rows_from_the_host_give_the_bits_of_resident_rows_and_so_does_a_second_time(setting, monkeypatch):
    splits = weighted(toy_splits())
    config = coursework(epochs=2, learning_rate=0.05, batch_size=32, backend="torch", **SETTINGS[setting])

    monkeypatch.setattr(devices, "room_on", lambda device: 0.0)

    def bits():
        result = train(splits, config)
        return result.model.layer.weights.tobytes(), result.model.layer.bias.tobytes(), result.scores

    from_host = bits()
    assert bits() == from_host
    monkeypatch.setattr(devices, "room_on", lambda device: 1e9)
    assert bits() == from_host


def test_threads_change_no_bit_and_are_as_they_were_afterwards():
    splits, config = toy_splits(), coursework(epochs=1, batch_size=240, backend="torch")
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(train(splits, config).model.layer.weights.tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_bfloat16_rounds_the_factors_only_in_training():
    splits = toy_splits()
    config = coursework(epochs=2, learning_rate=0.05, batch_size=32, backend="torch")
    full, rough = (train(splits, replace(config, precision=name)) for name in ("full", "bfloat16"))
    assert 1e-4 < relative(rough.model.layer.weights, full.model.layer.weights) < 2e-2
    exact = train(splits, replace(config, backend="numpy", epochs=0), start=replace(rough.state, history=()))
    assert exact.scores["validation"].loss == pytest.approx(rough.scores["validation"].loss, rel=1e-6)


@pytest.mark.parametrize("newer", [True, False])  # the switch that PyTorch has from 2.9 on
def test_products_on_a_gpu_have_all_digits_unless_fewer_are_asked_for(monkeypatch, newer):
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))
    if newer:
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision="tf32"))
    switch, before = torch.backends.cuda.matmul, dict(vars(torch.backends.cuda.matmul))
    device = devices.Device("cpu")
    device.name = "mps"  # what is set does not depend on a GPU
    for asked, expected in (("full", ("ieee", False)), ("bfloat16", ("ieee", False)), ("tf32", ("tf32", True))):
        with device.working("a test", 0, asked):
            assert [*vars(switch).values()] == [expected[not newer]]
        assert vars(switch) == before


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="PyTorch has no newer switch")
def test_a_caller_may_have_set_the_digits_of_products_by_the_newer_switch():
    device, switch = devices.Device("cpu"), torch.backends.cuda.matmul
    device.name, before, switch.fp32_precision = "mps", switch.fp32_precision, "tf32"
    try:
        with device.working("a test", 0):
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == "tf32"
    finally:
        switch.fp32_precision = before


def test_memory_that_pytorch_keeps_for_itself_has_room_for_rows(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3000, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4000)
    assert devices.room_on("cuda:0") == pytest.approx(0.9 * 5000)


def test_rows_are_on_a_device_once_as_long_as_they_are_used(resident):
    device, dataset = devices.Device("cpu"), toy_dataset()
    first = Held.on(device, dataset, 0)
    assert first is Held.on(device, dataset, 0)
    assert first.rows.dtype == torch.uint8
    np.testing.assert_array_equal(first.rows, dataset.rows)
    gone = weakref.ref(first)
    del first
    assert gone() is None
    assert Held.on(device, dataset, 10**9).rows is None  # no room


def in_bfloat16(splits):
    """The splits with rows of the nearest numbers that bfloat16 has, in float32, as readers give them."""
    rows = torch.from_numpy(splits.dataset.rows.copy()).to(torch.bfloat16).float().numpy()
    assert not np.array_equal(rows, splits.dataset.rows)
    dataset = replace(splits.dataset, rows=rows)
    return replace(splits, **{part.name: replace(part, dataset=dataset) for part in splits})


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"solver": "converged", "l2": 0.1}], ids=str)
def test_rows_that_were_bfloat16_are_so_on_a_device_and_change_no_bit(options, monkeypatch):
    splits, found = in_bfloat16(toy_splits(dtype="float32")), []
    config = TrainConfig(backend="torch", device="cpu", threads=1, **options)
    config = replace(config, epochs=2) if config.solver == "sgd" else config
    for room in (0.0, 1e9):
        monkeypatch.setattr(devices, "room_on", lambda device, room=room: room)
        result = train(splits, config)
        found.append((result.model.layer.weights.tobytes(), result.scores))
    assert found[0] == found[1]
    rows, device = splits.dataset.rows, devices.Device("cpu")
    for room, fits in ((rows.nbytes / 2, True), (rows.nbytes / 2 - 1, False)):
        monkeypatch.setattr(devices, "room_on", lambda device, room=room: room)
        held = Held.on(device, splits.dataset, 0).rows
        assert (held is not None) == fits
        if fits:
            assert held.dtype == torch.bfloat16
            np.testing.assert_array_equal(held.float(), rows)


@pytest.mark.parametrize("more", [2**-8, 2**-23])
def test_a_single_number_with_more_digits_keeps_rows_in_float32(more, resident):
    rows = torch.ones(300, 60).to(torch.bfloat16).float().numpy()
    device = devices.Device("cpu")
    assert Held.on(device, replace(toy_dataset(), rows=rows.copy()), 0).rows.dtype == torch.bfloat16
    rows[-1, -1] = 1 + more
    assert Held.on(device, replace(toy_dataset(), rows=rows), 0).rows.dtype == torch.float32


@pytest.mark.parametrize("loss", LOSSES)
def test_the_residual_of_tensors_is_that_of_each_row(loss):
    rng = np.random.default_rng(0)
    S, y = rng.normal(0, 5, (50, 7)), rng.integers(0, 7, 50)
    found = LOSSES[loss].tensor_residual(torch.from_numpy(S.copy()), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(found, LOSSES[loss].residual(S, y) * 50, rtol=1e-13, atol=1e-15)


# The converged solver


@pytest.mark.parametrize("rows", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"flip": True, "loss": "sigmoid"}, {"dtype": "float64"}], ids=str)
def test_the_solver_converged_takes_its_products_from_the_device(rows, options, monkeypatch):
    splits = weighted(toy_splits(dtype=rows))
    monkeypatch.setattr("onelayer.training.converging.rows.SMALL_NUMBERS", 0)  # products in float32 are enough
    config = TrainConfig(solver="converged", l2=0.1, tol=1e-6, **options)
    found, reference = (train(splits, replace(config, backend=name)) for name in ("torch", "numpy"))
    assert found.history["gap"][-1] <= 1e-6
    assert found.scores["train"].cost == pytest.approx(reference.scores["train"].cost, rel=1e-6)
    assert relative(found.model.layer.weights, reference.model.layer.weights) < 2e-3
    again = train(splits, replace(config, backend="torch"))
    assert again.model.layer.weights.tobytes() == found.model.layer.weights.tobytes()


@pytest.mark.parametrize(("rows", "flip"), [("uint8", False), ("uint8", True), ("float16", False), ("float64", True)])
def test_the_products_are_those_of_numpy(rows, flip, resident):
    splits = toy_splits(dtype=rows)
    config = TrainConfig(solver="converged", flip=flip)
    of_rows = with_flips(splits.standardizer, (3, 4, 5), config) if flip else splits.standardizer
    options = {"flip": flip, "dtype": np.dtype("float64")}
    ours, theirs = DeviceRows(splits.train, of_rows, "cpu", **options), Rows(splits.train, of_rows, **options)
    rng = np.random.default_rng(0)
    T, G = rng.standard_normal((4, ours.d)), rng.standard_normal((4, ours.n))
    assert ours.d == (36 if flip else 60)
    np.testing.assert_allclose(ours.scores(T), theirs.scores(T), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(ours.gradient(G), theirs.gradient(G), rtol=1e-9, atol=1e-10)


class WithoutFloat64(TorchDispatchMode):
    """Refuses float64, as the device mps does, except for arrays of NumPy before they are copied there."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        assert found.dtype != torch.float64 or "lift_fresh" in str(operation), operation
        return found


@pytest.mark.parametrize("flip", [False, True])
def test_a_device_without_float64_is_not_asked_for_it(flip, resident, monkeypatch):
    splits, started = toy_splits(dtype="uint8"), devices.Device.__init__
    monkeypatch.setattr(
        devices.Device, "__init__", lambda self, asked: started(self, asked) or setattr(self, "exact", torch.float32)
    )
    config = TrainConfig(solver="converged", flip=flip)
    of_rows = with_flips(splits.standardizer, (3, 4, 5), config) if flip else splits.standardizer
    with WithoutFloat64():
        ours = DeviceRows(splits.train, of_rows, "cpu", flip=flip)
        theirs = Rows(splits.train, of_rows, flip=flip, dtype=np.dtype("float32"))
        T, G = np.ones((4, ours.d)), np.ones((4, ours.n), np.float32)
        scores, gradient = ours.scores(T), ours.gradient(G)
    np.testing.assert_allclose(scores, theirs.scores(T), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, theirs.gradient(G), rtol=1e-4, atol=1e-3)


# Several processes


def held_by(splits, owner, processes):
    """The splits with the rows that `owner` (n,) gives to a process; the others are zeros there."""
    held = owner == processes.rank
    rows = np.where(held[:, None], splits.dataset.rows, splits.dataset.rows.dtype.type(0))
    dataset = replace(splits.dataset, rows=rows, mark="toy", holding=Holding(processes, held, complete=False))
    return Splits(*(replace(part, dataset=dataset) for part in splits), splits.protocol)


@pytest.mark.parametrize("room", [0.0, 1e9])
def test_processes_train_on_the_rows_that_their_devices_have(room, monkeypatch):
    monkeypatch.setattr(devices, "room_on", lambda device: room)
    config = TrainConfig(backend="torch", device="cpu", dtype="float64", threads=1, epochs=2, l2=0.1)
    splits = weighted(toy_splits())
    owner = np.random.default_rng(0).integers(0, 2, len(splits.dataset.rows))  # and a third process has no rows
    one = train(splits, config)
    assert np.abs(one.model.layer.weights).max() > 0.01
    for found in in_threads(3, lambda processes: train(held_by(splits, owner, processes), config)):
        assert relative(found.model.layer.weights, one.model.layer.weights) < 1e-12
        assert found.backend == "torch"


def test_a_device_has_the_rows_that_its_process_holds(resident):
    splits, device = toy_splits(), devices.Device("cpu")
    owner = np.random.default_rng(0).integers(0, 3, len(splits.dataset.rows))
    on = in_threads(3, lambda processes: Held.on(device, held_by(splits, owner, processes).dataset, 0))
    for rank, held in enumerate(on):
        np.testing.assert_array_equal(held.rows, splits.dataset.rows[owner == rank])
    assert sum(len(held.rows) for held in on) == 300


# Nothing waits


class Launches(TorchDispatchMode):
    """Counts the operations that a device would launch, and refuses those that wait for it or read a value of it."""

    WAIT = re.compile("_local_scalar_dense|nonzero|item|is_nonzero|equal|unique|masked_select|_to_copy|_pin_memory")
    NO_LAUNCH = re.compile(
        r"view|slice|aten\.select\.|unsqueeze|transpose|aten\.t\.|expand|as_strided|alias|detach|permute|lift_fresh"
    )

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = str(operation)
        assert not self.WAIT.search(name), f"{name} waits for the device"
        if not self.NO_LAUNCH.search(name):
            self.names.append(name)
        return operation(*args, **(kwargs or {}))


def open_for(splits, **options):
    config = coursework(**{"batch_size": 20, "device": "cpu", "init_std": 0.0} | options)
    layer = TrainingState.initial(60, 4, config).layer
    return TorchBackend(splits, config, splits.standardizer.for_training, layer)


def launches_of(backend, train, flipped=None):
    """The operations of an epoch on some rows, none of which waits."""
    with Launches() as launches:
        backend.run_epoch(train, 0.1, flipped, bool)
    return [re.search(r"aten\.(\w+)", name)[1] for name in launches.names]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["mm", "_softmax", "scatter_", "addmm_"]),
        ({"loss": "sigmoid"}, ["mm", "sigmoid", "scatter_", "div_", "addmm_"]),
        ({"l2": 0.1}, ["mm", "_softmax", "scatter_", "mul_", "addmm_"]),
        ({"momentum": 0.9}, ["mm", "_softmax", "scatter_", "mul_", "addmm_", "add_"]),
        ({"momentum": 0.9, "l2": 0.1}, ["mm", "_softmax", "scatter_", "mul_", "addmm_", "add_", "add_"]),
    ],
)
def test_a_step_is_few_launches_and_none_waits(resident, options, expected):
    splits = toy_splits()
    backend, train = open_for(splits, **options), splits.train
    rows = ["index_select", "sub", "div_", "index_select"]  # a block of resident rows, and labels
    assert launches_of(backend, replace(train, indices=train.indices[:100])) == [*rows, *5 * expected]


def test_weights_and_flips_take_a_few_launches_more_for_a_block(resident):
    splits = weighted(toy_splits())
    batch = replace(splits.train, indices=splits.train.indices[:20])
    assert launches_of(open_for(splits), batch, np.ones(20, bool)) == [
        *("index_select", "flip", "where", "sub", "div_"),  # rows
        *("index_select", "index_select"),  # labels and weights
        *("mm", "_softmax", "scatter_", "mul_", "addmm_"),
    ]


def test_what_waits_is_refused():
    with Launches(), pytest.raises(AssertionError, match="waits for the device"):
        float(torch.ones(2).sum())


class Graph:
    """A stand-in for a CUDA graph, on the CPU: it repeats operations on the same tensors."""

    replays = 0

    def __init__(self):
        self.operations = []

    def replay(self):
        Graph.replays += 1
        for operation, args, kwargs, out in self.operations:
            found = operation(*args, **kwargs)
            if found is not out and isinstance(out, torch.Tensor):
                out.copy_(found)


class Capture(TorchDispatchMode):
    """Records operations into a graph. What they change is as it was afterwards, since a capture computes nothing."""

    def __init__(self, graph, *, stream, capture_error_mode):
        super().__init__()
        assert (stream, capture_error_mode) == ("a stream", "thread_local")
        self.graph, self.before, self.made = graph, [], set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert not Launches.WAIT.search(str(operation))
        if args[0].untyped_storage().data_ptr() not in self.made and str(operation).split(".")[1].endswith("_"):
            self.before.append((args[0], args[0].clone()))
        out = operation(*args, **(kwargs or {}))
        if not Launches.NO_LAUNCH.search(str(operation)):
            self.graph.operations.append((operation, args, kwargs or {}, out))
            if out is not args[0]:
                self.made.add(out.untyped_storage().data_ptr())
        return out

    def __exit__(self, *error):
        super().__exit__(*error)
        for tensor, before in reversed(self.before):
            tensor.copy_(before)


@pytest.fixture
def graphs(monkeypatch):
    """Let the work on the CPU be captured and replayed from now on, when it is called."""

    def begin():
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)
        original = Replay.__init__
        monkeypatch.setattr(Replay, "__init__", lambda self, stream: original(self, "a stream"))
        monkeypatch.setattr(Graph, "replays", 0)

    return begin


@pytest.mark.parametrize("setting", ["weights", "momentum", "flip", "decay", "blocks"])
def test_steps_that_are_captured_and_replayed_give_the_same_bits(setting, graphs):
    splits = weighted(toy_splits()) if setting in WEIGHTED else toy_splits()
    config = coursework(epochs=5, learning_rate=0.05, batch_size=32, backend="torch", device="cpu", **SETTINGS[setting])
    eager = train(splits, config)
    graphs()
    found = train(splits, config)
    # The first time is eager. With another learning rate there are other graphs; with blocks, the sizes vary.
    assert Graph.replays >= (0 if setting == "decay" else 4)
    assert found.model.layer.weights.tobytes() == eager.model.layer.weights.tobytes()
    assert found.scores == eager.scores


@pytest.mark.parametrize("setting", ["weights", "penalty", "momentum", "decay"])
def test_a_stack_is_captured_once_for_all_its_epochs(setting, graphs):
    splits = weighted(toy_splits()) if setting in WEIGHTED else toy_splits()
    config = coursework(epochs=5, batch_size=32, backend="torch", device="cpu", threads=1, **SETTINGS[setting])
    # One head leaves the others before the end.
    configs = [replace(config, learning_rate=rate, epochs=epochs) for rate, epochs in ((0.01, 5), (0.05, 3), (0.1, 5))]
    eager = together(splits, configs, "torch")
    graphs()
    found = together(splits, configs, "torch")
    # Of 180 rows, blocks of 128 and 52 in each of five epochs. Each of the two is eager once with three heads and once
    # with two, and a graph from then on.
    assert Graph.replays == 2 * 5 - 2 * 2
    for ours, theirs in zip(found, eager, strict=True):
        assert ours.model.layer.weights.tobytes() == theirs.model.layer.weights.tobytes()
        assert ours.scores == theirs.scores


def test_cancelled_means_now():
    backend, splits = open_for(toy_splits()), toy_splits()
    for work in (
        lambda: backend.run_epoch(splits.train, 0.1, None, lambda: True),
        lambda: backend.evaluate(backend.layer, splits.train, lambda: True),
        lambda: backend.objective(backend.layer, splits.train, lambda: True),
    ):
        with pytest.raises(InterruptedError):
            work()


# The choice


def test_a_gpu_implies_torch_and_nothing_else_does(monkeypatch):
    monkeypatch.setattr(devices, "devices_here", lambda: ["cuda:0", "cuda:1", "cpu"])
    dataset = toy_dataset()
    assert choose_backend(dataset, TrainConfig()) is not TorchBackend  # a GPU that appears changes no result
    assert choose_backend(dataset, TrainConfig(device="cpu")) is not TorchBackend
    for device in ("cuda", "cuda:1"):
        assert choose_backend(dataset, TrainConfig(device=device)) is TorchBackend
    for backend in ("native", "numpy"):
        with pytest.raises(ConfigError, match=f"^device cuda is a setting of the backend torch, not of {backend};"):
            choose_backend(dataset, TrainConfig(device="cuda", backend=backend))
    with pytest.raises(ConfigError, match=r"^precision tf32 is a setting of the backend torch, not of numpy; leave"):
        choose_backend(dataset, TrainConfig(precision="tf32", backend="numpy"))
    assert devices.choose_device("auto") == devices.choose_device("cuda") == "cuda:0"
    for rank, device in (("1", "cuda:1"), ("2", "cuda:0")):  # of processes that torchrun started on this machine
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert devices.choose_device("auto") == devices.choose_device("cuda") == device
        assert devices.choose_device("cuda:1") == devices.settled_device("cuda:1") == "cuda:1"
        assert devices.settled_device("auto") == devices.settled_device("cuda") == "cuda"  # resumed, each has its own
    monkeypatch.delenv("LOCAL_RANK")
    assert devices.settled_device("auto") == "cuda:0"
    with pytest.raises(
        ConfigError, match=r"^PyTorch finds no device cuda:2 here.*; take --device cuda:0 or cuda:1 or cpu"
    ):
        choose_backend(dataset, TrainConfig(device="cuda:2"))


@pytest.mark.parametrize(
    ("here", "options", "words"),
    [
        ("cpu", {"precision": "tf32"}, "has no precision tf32 on the device cpu: leave precision out"),
        (
            "cpu",
            {"precision": "bfloat16", "dtype": "float64"},
            "has no precision bfloat16 in float64: take float32, or leave precision out",
        ),
        ("mps", {"dtype": "float64"}, "does not do float64 on the device mps: take float32"),
        ("mps", {"device": "mps"}, "takes no float64 rows on the device mps: store those of toy as float32"),
    ],
)
def test_what_a_device_cannot_do_is_an_obstacle(monkeypatch, here, options, words):
    monkeypatch.setattr(devices, "devices_here", lambda: [here])
    with pytest.raises(ConfigError, match=f"^the backend torch {re.escape(words)}"):
        choose_backend(toy_dataset(dtype="float64"), TrainConfig(backend="torch", **options))


def test_without_pytorch_there_is_a_line(monkeypatch):
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    words = r"^the backend torch needs PyTorch, which is not installed: run pip install 'onelayer\[torch\]'"
    with pytest.raises(ConfigError, match=words + "$"):  # NumPy does not have the device
        train(toy_splits(), TrainConfig(device="cuda"))
    with pytest.raises(ConfigError, match=words + ", or use the backend numpy$"):
        train(toy_splits(), TrainConfig(backend="torch"))
    with pytest.raises(ConfigError, match=r"^the device cpu needs PyTorch, which is not installed: run pip install"):
        devices.choose_device("cpu")


def test_a_pytorch_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(devices, "devices_here", lambda: ["cpu"])
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    words = rf"^PyTorch finds no device cuda:7 here \(version {re.escape(torch.__version__)} is built without CUDA\)"
    with pytest.raises(ConfigError, match=words):
        devices.choose_device("cuda:7")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ConfigError, match=r"^PyTorch finds no device cuda:7 here; take --device cpu$"):
        devices.choose_device("cuda:7")


class Gpu(devices.Device):
    """A device that is the CPU by another name."""

    def __init__(self, asked):
        super().__init__("cpu")
        self.name = asked


@pytest.mark.parametrize(
    ("device", "error"),
    [
        ("cuda:0", torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of")),
        ("cuda:0", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        ("mps", RuntimeError("MPS backend out of memory (MPS allocated: 20.00 MiB)")),
    ],
)
def test_a_full_gpu_says_how_much_is_needed_and_what_to_lower(monkeypatch, device, error):
    monkeypatch.setattr(devices, "devices_here", lambda: [device, "cpu"])
    monkeypatch.setattr(devices, "Device", Gpu)
    monkeypatch.setattr(devices, "room_on", lambda device: 2.5 * 2**30)
    splits = toy_splits()
    backend = open_for(splits, batch_size=100, device=device)

    def full(*_):
        raise error

    monkeypatch.setattr(LOSSES["softmax"], "tensor_residual", full)
    said = (
        f"the device {device} is out of memory: training on batches of 100 rows of 60 features needs about 0 MiB beside"
    )
    with pytest.raises(ConfigError, match=f"^{said} the rows, and 2.5 GiB are free; lower --batch-size, or take --dev"):
        backend.run_epoch(splits.train, 0.1, None, bool)
    error = RuntimeError("the size of tensor a must match")
    with pytest.raises(RuntimeError, match="must match"):
        backend.run_epoch(splits.train, 0.1, None, bool)


def test_pytorch_on_a_cpu_without_memory_is_a_line_too(monkeypatch):
    splits = toy_splits()
    backend = open_for(splits)
    monkeypatch.setattr(LOSSES["softmax"], "tensor_residual", lambda *_: torch.empty(2**50))
    said = "training on batches of 20 rows of 60 features needs about 0 MiB beside the rows; lower --batch-size"
    with pytest.raises(ConfigError, match=f"^the device cpu is out of memory: {said}$"):
        backend.run_epoch(splits.train, 0.1, None, bool)
    rows = DeviceRows(splits.train, splits.standardizer, "cpu")
    monkeypatch.setattr("onelayer.training.converging.device_rows.of_arrays", lambda *_: torch.empty(2**50))
    said = "the solver converged needs about 0 MiB beside the rows; close other programs"
    with pytest.raises(ConfigError, match=f"^the device cpu is out of memory: {said}$"):
        rows.scores(np.ones((4, 60)))


def test_steps_that_are_too_long_are_an_error_as_everywhere(run_cli, tmp_path):
    rows = np.random.default_rng(0).normal(6e4, 1e3, (90, 5)).astype(np.float16)  # half precision ends at 65,504
    np.savez(tmp_path / "x.npz", x=rows, y=np.arange(90) % 3)
    words = ["train", "--data", tmp_path / "x.npz", "--out", tmp_path / "run", "--backend", "torch", "--no-figures"]
    assert run_cli(*words)[0] == 0
    result = run_cli(*words, "--overwrite", "--lr", "1e38")
    assert_one_line(
        result, "the cost after epoch .* is not a finite number: the steps are too long; try a learning rate"
    )


# scikit-learn


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.02, "epochs": 3, "momentum": 0.0},
        {"learning_rate": 0.02, "epochs": 3, "momentum": 0.0, "precision": "bfloat16"},
        {"solver": "converged", "l2": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_estimator_has_the_bits_of_the_engine(dtype, settings):
    splits, torch_on = toy_splits(dtype=dtype), {"backend": "torch", "device": "cpu"}
    expected = train(splits, TrainConfig(**settings, **torch_on)).model.layer
    X, y = splits.train.rows(slice(None)), splits.train.labels
    settings = {name: value for name, value in settings.items() if name != "momentum"}
    clf = SoftmaxClassifier(**settings, **torch_on, image_shape=(3, 4, 5), random_state=42).fit(X, y)
    assert clf.model_.layer.weights.tobytes() == expected.weights.tobytes()
    assert clf.model_.layer.bias.tobytes() == expected.bias.tobytes()
    assert clf.score(X, y) > 0.9


def test_an_estimator_goes_on_with_another_backend():
    X, y = toy_splits(dtype="float32").train.rows(slice(None)), toy_splits().train.labels
    settings = {"epochs": 2, "learning_rate": 0.05, "warm_start": True, "random_state": 0}
    moved, whole = SoftmaxClassifier(**settings, backend="numpy"), SoftmaxClassifier(**settings, backend="torch")
    whole.fit(X, y).fit(X, y)
    moved.fit(X, y).set_params(backend="torch", device="cpu").fit(X, y)
    assert relative(moved.coef_, whole.coef_) < 1e-5
    assert moved.n_iter_ == 4


@pytest.mark.parametrize(
    ("settings", "dtype", "words"),
    [
        ({"device": "gpu"}, "float32", r"^device 'gpu' is not auto, cpu, cuda"),
        ({"device": "cuda:9"}, "float32", r"^PyTorch finds no device cuda:9 here.*; take --device"),
        (
            {"device": "cuda", "backend": "numpy"},
            "float32",
            r"^device cuda is a setting of the backend torch, not of n",
        ),
        (
            {"precision": "bfloat16"},
            "float64",
            r"^the backend torch has no precision bfloat16 in float64: take float32",
        ),
    ],
)
def test_what_an_estimator_cannot_take_is_a_value_error(settings, dtype, words):
    splits = toy_splits(dtype=dtype)
    with pytest.raises(ValueError, match=words):
        SoftmaxClassifier(**settings).fit(splits.train.rows(slice(None)), splits.train.labels)


# The command


def test_the_command_end_to_end(run_cli, tmp_path):
    out = tmp_path / "run"
    words = ["--data", "digits", "--epochs", "3", "--seed", "1", "--no-figures"]
    code, shown, err = run_cli("train", *words, "--backend", "torch", "--out", out)
    assert (code, err) == (0, "")
    device = devices.choose_device("auto")
    assert f"(torch on {device}" in shown
    run = Run.open(out)
    assert (run.config.backend, run.config.device) == ("torch", device)
    assert run.summary["device"].startswith(device)
    assert run_cli("train", *words, "--backend", "numpy", "--out", tmp_path / "numpy")[0] == 0
    ours, theirs = run.model.layer.weights, Run.open(tmp_path / "numpy").model.layer.weights
    assert relative(ours, theirs) < 1e-5
    assert "device" not in Run.open(tmp_path / "numpy").summary
    code, shown, err = run_cli("resume", out, "--epochs", "4", "--no-figures")
    assert (code, err) == (0, "")
    uninterrupted = ["--data", "digits", "--epochs", "4", "--seed", "1", "--no-figures", "--backend", "torch"]
    assert run_cli("train", *uninterrupted, "--out", tmp_path / "whole")[0] == 0
    assert Run.open(tmp_path / "whole").model.layer.weights.tobytes() == run.model.layer.weights.tobytes()


def test_a_run_goes_on_on_another_device_only_if_it_is_asked_to(run_cli, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--data", "digits", "--epochs", "1", "--no-figures", "--out", out]
    assert run_cli(*words, "--backend", "torch", "--device", "cpu")[0] == 0
    run = Run.open(out)
    plan, state = run.read_checkpoint()
    run.write_checkpoint(replace(plan, config=replace(plan.config, device="cuda:7")), state)  # as on another machine
    more = ["resume", out, "--epochs", "2", "--no-figures"]
    assert_one_line(run_cli(*more), r"PyTorch finds no device cuda:7 here.*; take --device .*cpu$")
    code, shown, err = run_cli(*more, "--device", "cpu")
    assert (code, err) == (0, "")
    note = "note: the run was trained by torch on cuda:7 so far; torch on cpu may give other last digits"
    assert note in shown
    assert run.config.device == "cpu"
    assert run_cli(*words, "--backend", "numpy", "--overwrite")[0] == 0
    refused = run_cli(*more, "--device", "cuda:7")
    assert_one_line(refused, "PyTorch finds no device cuda:7 here.*; take --device .*cpu$")
    refused = run_cli(*more, "--device", "gpu", "--data", "nowhere")  # before the data are looked for
    assert_one_line(refused, "device 'gpu' is not auto, cpu, cuda, cuda:N for GPU number N, or mps")
    assert run.config.device == "auto"


def test_a_run_of_another_backend_goes_on_on_a_gpu(run_cli, tmp_path, monkeypatch):
    words = ["train", "--data", "digits", "--no-figures", "--backend", "numpy", "--dtype", "float64"]
    assert run_cli(*words, "--epochs", "3", "--out", tmp_path / "whole")[0] == 0
    assert run_cli(*words, "--epochs", "1", "--out", tmp_path / "run")[0] == 0
    monkeypatch.setattr(devices, "devices_here", lambda: ["cuda:0", "mps", "cpu"])
    monkeypatch.setattr(devices, "Device", Gpu)
    monkeypatch.setattr(devices, "room_on", lambda device: 1e9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    run, more = Run.open(tmp_path / "run"), ["resume", tmp_path / "run", "--epochs", "3", "--no-figures"]
    refused = run_cli(*more, "--device", "mps")
    assert_one_line(refused, "the backend torch does not do float64 on the device mps: take float32")
    assert run.config.backend == "numpy"
    code, shown, err = run_cli(*more, "--device", "cpu")
    assert (code, err, "note: the run was" in shown) == (0, "", False)
    assert run_cli(*words, "--epochs", "1", "--out", tmp_path / "run", "--overwrite")[0] == 0
    code, shown, err = run_cli(*more, "--device", "cuda")
    assert (code, err) == (0, "")
    assert "note: the run was trained by numpy so far; torch on cuda:0 may give other last digits" in shown
    assert (run.summary["backend"], run.summary["device"]) == ("torch", "cuda:0, a GPU")
    ours, theirs = run.model.layer.weights, Run.open(tmp_path / "whole").model.layer.weights
    assert 0 < relative(ours, theirs) < 1e-12


def test_pytorch_is_loaded_when_it_is_asked_for():
    code = "import sys, onelayer, onelayer.training.state as s; assert 'torch' not in sys.modules, 'loaded'"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
