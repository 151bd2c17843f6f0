"""The compiled kernel as it is called: bad arguments, its typed face, instruction sets, and interruption."""

import ast
import inspect
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import onelayer.kernel
from onelayer.kernel import kernel

pytestmark = pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")

SHARED = ("rows", "labels", "row_weights", "mean", "scale", "places", "templates", "bias", "loss", "cancelled")
PRODUCT = ("rows", "mean", "scale", "places", "width", "cancelled")
MOMENTUM = ("momentum", "velocity", "bias_velocity")
CALLS = {
    "run_epoch": (*SHARED, "flipped", "width", "batch_size", "learning_rate", "l2", *MOMENTUM),
    "evaluate": SHARED,
    "objective": (*SHARED, "gradient", "bias_gradient"),
    "scores": (*PRODUCT, "templates", "scores"),
    "gradient": (*PRODUCT, "residuals", "gradient"),
    "standardise": (*PRODUCT, "standardised"),
    "probabilities": ("scores", "bias", "labels", "row_weights", "loss", "probabilities", "means", "cancelled"),
}
WRITTEN = {
    "run_epoch": ("templates", "bias", "velocity", "bias_velocity"),
    "evaluate": (),
    "objective": ("gradient", "bias_gradient"),
    "scores": ("scores",),
    "gradient": ("gradient",),
    "standardise": ("standardised",),
    "probabilities": ("probabilities", "means"),
}


def good_arguments(call: str) -> dict[str, object]:
    rng = np.random.default_rng(0)
    every = {
        "rows": rng.integers(0, 256, (6, 4)).astype(np.uint8),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "row_weights": np.ones(6),
        "mean": np.zeros(4),
        "scale": np.ones(4),
        "places": np.arange(6),
        "templates": np.zeros((3, 4), np.float64 if call == "scores" else np.float32),
        "bias": np.zeros(3, np.float64 if call == "probabilities" else np.float32),
        "loss": "softmax",
        "flipped": np.zeros(6, bool),
        "width": 2 if call == "run_epoch" else 0,
        "batch_size": 2,
        "learning_rate": 0.1,
        "l2": 0.0,
        "momentum": 0.5,
        "velocity": np.zeros((3, 4), np.float32),
        "bias_velocity": np.zeros(3, np.float32),
        "gradient": np.zeros((3, 4)),
        "bias_gradient": np.zeros(3),
        "scores": np.ones((3, 6), np.float32),
        "residuals": np.ones((3, 6), np.float32),
        "probabilities": np.ones((3, 6), np.float32),
        "means": np.ones(3),
        "standardised": np.zeros((6, 4), np.float32),
        "cancelled": None,
    }
    return {name: every[name] for name in CALLS[call]}


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def too_short(array):
    return np.ones((3, 5), np.float32)


BAD_BY_CLASS = [
    too_short,
    lambda a: a.astype(float),
    lambda a: np.ones((6, 3), np.float32).T,
    lambda a: np.ones((3, 12), np.float32)[:, ::2],
    lambda a: np.broadcast_to(a[0], (3, 6)),
    lambda a: a[::-1],
    lambda a: a[0],
    lambda a: None,
]
BAD = {
    "rows": [
        lambda a: a.astype(np.int8),
        lambda a: a.astype(float),
        np.asfortranarray,
        lambda a: a[:, ::-1],
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[:0],
        lambda a: a[0],
        lambda a: a.tolist(),
        lambda a: None,
    ],
    "labels": [
        lambda a: a.astype(np.int32),
        lambda a: a[:5],
        lambda a: a + 1,
        lambda a: a - 1,
        lambda a: a[::-1],
        lambda a: a[:, None],
    ],
    "row_weights": [
        lambda a: a.astype(np.float32),
        lambda a: a[:5],
        lambda a: -a,
        lambda a: a * np.nan,
        lambda a: a * np.inf,
        lambda a: a * 1e39,  # infinite in float32
    ],
    "mean": [lambda a: a.astype(np.float32), lambda a: a[:3], lambda a: a * np.nan],
    "scale": [lambda a: a.astype(np.float32), lambda a: a[:3], lambda a: a * 0, lambda a: -a],
    "places": [lambda a: a.astype(np.int32), lambda a: a[:0], lambda a: a + 1, lambda a: a - 1, lambda a: a[::2]],
    "flipped": [lambda a: a.astype(np.uint8), lambda a: a[:5]],
    "width": [lambda w: 3, lambda w: w - 2, lambda w: -2],
    "templates": [
        lambda a: a.astype(np.float16),
        lambda a: np.zeros((3, 5), a.dtype),
        lambda a: np.zeros((4, 3), a.dtype).T,
        lambda a: a[:0],
    ],
    "bias": [lambda a: a.astype(np.float16), lambda a: a[:2], lambda a: np.zeros(6, a.dtype)[::2]],
    "batch_size": [lambda n: 0, lambda n: -1, lambda n: 2.5],
    "learning_rate": [lambda x: np.nan, lambda x: "fast"],
    "l2": [lambda x: np.inf],
    "momentum": [lambda x: 1.0, lambda x: -0.1, lambda x: np.nan, lambda x: "much"],
    "velocity": [lambda a: a.astype(float), lambda a: a[:2], lambda a: np.zeros((4, 3), a.dtype).T, lambda a: None],
    "bias_velocity": [lambda a: a.astype(float), lambda a: a[:2], lambda a: None],
    "loss": [lambda x: "hinge", lambda x: None],
    "gradient": [
        lambda a: a.astype(np.float32),
        lambda a: np.zeros((4, 3)),
        lambda a: np.zeros((4, 3)).T,
        lambda a: np.zeros((3, 8))[:, ::2],
        lambda a: np.zeros((2, 4)),
        lambda a: a[0],
        lambda a: None,
    ],
    "scores": BAD_BY_CLASS,
    "residuals": BAD_BY_CLASS,
    "probabilities": BAD_BY_CLASS,
    "means": [lambda a: a.astype(np.float32), lambda a: a[:2], lambda a: np.zeros(6)[::2], lambda a: None],
    "standardised": [lambda a: a.astype(float), lambda a: a[:5], lambda a: a[:, :3], lambda a: a[:, ::-1]],
    "bias_gradient": [lambda a: a.astype(np.float32), lambda a: a[:2], lambda a: np.zeros(6)[::2], lambda a: None],
    "cancelled": [lambda x: True],
}
SPOILED = [
    (call, name, spoil)
    for call, names in CALLS.items()
    for name in names
    for spoil in BAD[name] + [read_only] * (name in WRITTEN[call])
    if (call, name, spoil) != ("probabilities", "scores", too_short)  # the other arrays do not fit then
]


@pytest.mark.parametrize(("call", "name", "spoil"), SPOILED)
def test_a_bad_argument_is_named(call, name, spoil):
    arguments = good_arguments(call)
    getattr(kernel, call)(**arguments)
    arguments[name] = spoil(arguments[name])
    written = {key: np.array(arguments[key]) for key in WRITTEN[call]}
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(kernel, call)(**arguments)
    assert re.match(rf"{name} ", str(caught.value)), caught.value
    for key, before in written.items():
        np.testing.assert_array_equal(np.array(arguments[key]), before)


def test_arrays_are_updated_where_they_are():
    arguments = good_arguments("run_epoch")
    kernel.run_epoch(**arguments)
    assert np.abs(arguments["templates"]).max() > 0
    arguments["flipped"] = arguments["row_weights"] = None
    kernel.run_epoch(**arguments)
    arguments = good_arguments("objective")
    arguments["bias_gradient"][:] = 5
    kernel.objective(**arguments)
    assert np.abs(arguments["gradient"]).max() > 0
    np.testing.assert_allclose(arguments["bias_gradient"], 0, atol=1e-6)  # as many rows of each class, equal logits


@pytest.mark.parametrize("call", CALLS)
def test_arrays_that_are_only_read_may_be_read_only(call):
    arguments = good_arguments(call)
    for name in arguments.keys() - set(WRITTEN[call]):
        if isinstance(arguments[name], np.ndarray):
            arguments[name] = read_only(arguments[name])
    getattr(kernel, call)(**arguments)


def test_the_stub_has_the_functions_and_arguments_of_the_module():
    stub = ast.parse(Path(inspect.getfile(onelayer.kernel)).with_name("_kernel.pyi").read_text())
    declared = {f.name: [a.arg for a in f.args.args] for f in stub.body if isinstance(f, ast.FunctionDef)}
    functions = {name for name in vars(kernel) if not name.startswith("_")}
    assert declared.keys() == functions
    for name, arguments in declared.items():
        signature = getattr(kernel, name).__nb_signature__[0][0]
        assert re.findall(r"(\w+):", signature) == arguments, signature


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_variant_is_named(call, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", "mmx")
    with pytest.raises(ValueError, match=r"^ONELAYER_KERNEL=mmx does not run here; this machine has .*baseline"):
        getattr(kernel, call)(**good_arguments(call))


LONG_EPOCH = """
import numpy as np
from onelayer.kernel import kernel
n, d, K = 200, 3072, 10
kernel.run_epoch(rows=np.zeros((n, d), np.uint8), labels=np.zeros(n, np.int64), row_weights=None, mean=np.zeros(d),
                 scale=np.ones(d), places=np.zeros(100_000_000, np.int64), templates=np.zeros((K, d), np.float32),
                 bias=np.zeros(K, np.float32), loss="softmax", flipped=None, width=0, batch_size=100,
                 learning_rate=0.1, l2=0.0, momentum=0.0, velocity=None, bias_velocity=None, cancelled=None)
"""

LONG_EVALUATION = """
import numpy as np
from onelayer import train
from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
rows = np.zeros((200, 3072), np.uint8)
dataset = Dataset(rows, np.arange(200) % 2, ("a", "b"), None, "long")
few, many = np.arange(200), np.zeros(50_000_000, np.int64)
splits = Splits(Split("train", dataset, few), Split("validation", dataset, many), Split("test", dataset, few), "made")
train(splits, TrainConfig(epochs=2), on_epoch=print)
"""


def interrupt(code: str, after: float) -> tuple[float, int, bytes]:
    """Run Python code, send it SIGINT; seconds until its end, exit code, errors."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"print('starts', flush=True)\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == b"starts\n"
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    _, errors = process.communicate(timeout=20)
    return time.perf_counter() - started, process.returncode, errors


@pytest.mark.parametrize("code", [LONG_EPOCH, LONG_EVALUATION], ids=["epoch", "evaluation"])
def test_ctrl_c_ends_long_work_within_a_second(code):
    seconds, status, errors = interrupt(code, after=2.0)
    assert seconds < 1.5  # a second, and the interpreter's end
    assert status != 0
    assert b"KeyboardInterrupt" in errors
