"""Messages between the live page and its engine: what is packed comes back, and nothing else is read."""

import json

import numpy as np
import pytest

from onelayer import TrainConfig
from onelayer.live import messages
from onelayer.live.messages import KNOBS, MessageError, config_of, pack, read_bytes, read_text, unpack, write_text


def test_a_frame_comes_back_with_arrays_at_multiples_of_eight():
    arrays = {"a": np.arange(5, dtype=np.uint8), "b": np.arange(6, dtype=np.float32).reshape(2, 3)}
    data = pack({"type": "x", "text": "é"}, arrays)
    header, found = unpack(data)
    assert header["text"] == "é"
    assert (4 + int.from_bytes(data[:4], "little")) % 8 == 0
    assert len(data) % 8 == 0
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_numbers_that_are_not_finite_become_null():
    assert json.loads(write_text({"type": "x", "rows": [[1.0, float("nan")], [float("inf")]]})) == {
        "type": "x",
        "rows": [[1.0, None], [None]],
    }


def test_knobs_begin_in_their_range_and_make_the_settings_of_the_command():
    for knob in KNOBS:
        assert knob.check(knob.default) == knob.default
    assert config_of({}) == TrainConfig(epochs=40, keep="last", decay_every=0)
    assert {knob.name for knob in KNOBS if knob.solver == "sgd"} == {
        *("learning_rate", "batch_size", "epochs", "decay_every", "decay_factor", "init_std")
    }
    assert config_of({"solver": "converged", "learning_rate": 0.5, "l2": 0.1}) == TrainConfig(
        solver="converged", l2=0.1
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ('{"type": "hello", "token": NaN}', "not JSON"),
        ("[" * 10_000, "not JSON"),
        ("[1]", "not an object"),
        ('{"type": "shutdown"}', "no message 'shutdown'"),
        ('{"type": ["train"]}', "no message"),
        ('{"type": "train", "run": -1, "data": "given", "settings": {}}', "train: run"),
        ('{"type": "train", "run": true, "data": "given", "settings": {}}', "train: run"),
        ('{"type": "train", "run": 1, "data": "/etc/passwd", "settings": {}}', "train: data"),
        ('{"type": "train", "run": 1, "data": "given", "settings": {"out": "x"}}', "no knob 'out'"),
        ('{"type": "train", "run": 1, "data": "given", "settings": {"epochs": 1e9}}', "epochs is not from 1"),
        ('{"type": "train", "run": 1, "data": "given", "settings": {"epochs": 2.5}}', "whole number"),
        ('{"type": "train", "run": 1, "data": "given", "settings": {"l2": 1e999}}', "l2 is not a number"),
        (
            '{"type": "train", "run": 1, "data": "given", "settings": {"l2": 1' + "0" * 400 + "}}",
            "l2 is not a number",
        ),
        ('{"type": "train", "run": 1, "data": "given", "settings": {"flip": 1}}', "flip is not one of"),
        ('{"type": "train", "run": 1, "data": "given", "settings": {"features": "onnx:/x"}}', "features is not"),
        ('{"type": "train", "run": 1, "data": "given", "settings": {"flip": true, "features": "patches"}}', "flip"),
        ('{"type": "train", "run": 1, "data": "given", "settings": {}, "mistakes": ["x"]}', "train: mistakes"),
        ('{"type": "image", "id": 1}', "image: has no image"),
        ('{"type": "teach", "op": "add-image", "class": "a"}', "has no image"),
        ('{"type": "teach", "op": "delete-all", "class": "a"}', "teach: op"),
        ('{"type": "keep", "name": "' + "x" * 61 + '"}', "keep: name"),
        (" " * (messages.MOST_TEXT + 1), "longer than"),
    ],
)
def test_what_is_not_of_the_protocol_is_refused_in_a_line(text, words):
    with pytest.raises(MessageError, match=words) as caught:
        read_text(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\0\0\0\0", b"\xff\xff\xff\xff" + b" " * 100, b"\x0c\0\0\0" + b'{"a": 1}    ', b"x" * 64),
        pack({"type": "image", "id": 1}, {"file": np.zeros(9, np.uint8)})[:-8],
        pack({"type": "image", "id": 1}, {"file": np.zeros(9, np.uint8)}) + b"\0" * 8,
        pack({"type": "image", "id": 1}, {"file": np.zeros(9, np.float32)}),
        pack({"type": "image", "id": 1}, {"pixels": np.zeros((4, 4, 3), np.uint8)}),
        pack({"type": "image", "id": 1}, {"other": np.zeros(4, np.uint8)}),
        pack({"type": "image", "id": 1}, {"file": np.zeros(0, np.uint8)}),
        pack({"type": "cancel"}, {"file": np.zeros(4, np.uint8)}),
        pack({"type": "image", "id": 1}, {"file": np.zeros(4, np.uint8)}).replace(b"[4]", b"[9]"),
        pack({"type": "image", "id": 1}, {"file": np.zeros(4, np.uint8)}).replace(b'"uint8"', b'"objec"'),
    ],
)
def test_bytes_that_are_not_a_frame_are_refused(data):
    with pytest.raises(MessageError):
        read_bytes(data)


def test_a_frame_that_claims_much_is_refused_before_anything_is_allocated():
    header = {"type": "image", "id": 1, "arrays": [{"name": "file", "dtype": "uint8", "shape": [2**24, 2**24]}]}
    text = json.dumps(header).encode()
    text += b" " * (-(4 + len(text)) % 8)
    with pytest.raises(MessageError, match="shorter than its arrays"):
        read_bytes(len(text).to_bytes(4, "little") + text)
