"""The messages between the page and its engine: their names and limits, their bytes, and checks of all that comes in.

A message is a JSON object with a ``type``, sent as text. One with arrays is sent as bytes: 4 bytes with the length of a
header, little-endian; the header, JSON in UTF-8, padded with spaces so that what follows begins at a multiple of 8; and
the arrays in C order, each padded with zeros to a multiple of 8. The header names them::

    {"type": "epoch", ..., "arrays": [{"name": "learnt", "dtype": "uint8", "shape": [10, 32, 32, 3]}, ...]}

docs/live.md lists the messages and their fields.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onelayer.config import TrainConfig, settings_of_others
from onelayer.errors import ConfigError, OnelayerError
from onelayer.losses import LOSSES

DATA = ("given", "digits", "taught")
MISTAKES = ("init-0.1", "no-shuffle", "raw-pixels", "test-on-train")
SPLITS = ("validation", "test")

MOST_TEXT = 2**14  # bytes of a message without arrays
MOST_BYTES = 2**24  # of a message with arrays: the photo of a phone, or 4 megapixels
MOST_HEADER = 2**12  # bytes
MOST_NUMBER = 2**53 - 1  # whole numbers that JavaScript knows exactly
MOST_IMAGES = 20_000  # taught
MOST_TAUGHT_BYTES = 2**30  # of all taught images
MOST_CLASSES = 200  # taught
MOST_NAME = 60  # letters of the name of a class or a run
MOST_SHOWN = 40  # images in an answer
MOST_ARRAYS = 8
DTYPES = ("uint8", "int32", "float32")
POLICY = (  # the Content-Security-Policy of the page
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "worker-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'"
)


class MessageError(OnelayerError):
    """A message is not one of the protocol."""


@dataclass(frozen=True)
class Knob:
    """A setting that the page offers.

    Parameters
    ----------
    name : str
        One of `TrainConfig`.
    default : object
    least, most : float or None
        Ends of its range; None where it has choices. Where 0 is allowed beside a logarithmic range, `zero` is true.
    logarithmic, zero, whole, auto : bool
        `auto` says that it takes the word auto, too.
    choices : tuple
    solver : str
        The solver whose setting it is; empty if all have it.
    """

    name: str
    default: object
    least: float | None = None
    most: float | None = None
    logarithmic: bool = False
    zero: bool = False
    whole: bool = False
    auto: bool = False
    choices: tuple[object, ...] = ()
    solver: str = field(init=False)

    def __post_init__(self) -> None:
        own = [solver for solver in ("sgd", "converged") if self.name not in settings_of_others(solver)]
        object.__setattr__(self, "solver", own[0] if len(own) == 1 else "")

    def check(self, value: object) -> object:
        """Return a value of the knob, or raise a MessageError."""
        if self.choices:
            if not any(value == choice and type(value) is type(choice) for choice in self.choices):
                raise MessageError(f"{self.name} is not one of {', '.join(map(str, self.choices))}")
            return value
        if self.auto and value == "auto":
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_NUMBER:
            raise MessageError(f"{self.name} is not a number")
        if self.whole and value != int(value):
            raise MessageError(f"{self.name} is not a whole number")
        assert self.least is not None and self.most is not None  # noqa: S101, a knob without choices has a range
        if not (self.least <= value <= self.most or (self.zero and value == 0)):
            raise MessageError(f"{self.name} is not from {self.least:g} to {self.most:g}")
        return int(value) if self.whole else float(value)


KNOBS = (
    Knob("solver", "sgd", choices=("sgd", "converged")),
    Knob("loss", TrainConfig.loss, choices=tuple(LOSSES)),
    Knob("learning_rate", "auto", 1e-5, 10, logarithmic=True, auto=True),
    Knob("l2", 0.0, 1e-6, 10, logarithmic=True, zero=True),
    Knob("batch_size", 100, 1, 10_000, logarithmic=True, whole=True),
    Knob("epochs", 40, 1, 1000, logarithmic=True, whole=True, auto=True),
    Knob("decay_every", 0, 0, 1000, whole=True, auto=True),
    Knob("decay_factor", 0.1, 0.01, 1, logarithmic=True),
    Knob("flip", False, choices=(False, True)),
    Knob("init_std", 0.0, 1e-4, 1, logarithmic=True, zero=True),
    Knob("seed", 42, 0, 2**32 - 1, whole=True),
    Knob("features", "none", choices=("none", "patches:16", "patches:32", "patches:64", "patches")),
)
BY_NAME = {knob.name: knob for knob in KNOBS}


def config_of(settings: Mapping[str, object]) -> TrainConfig:
    """Return the settings of knobs; the layer is that of the last epoch, which the page shows.

    What the page sends for another solver is left out.
    """
    values = {knob.name: knob.default for knob in KNOBS} | {"keep": "last"}
    values |= {name: BY_NAME[name].check(value) for name, value in settings.items()}
    for name in settings_of_others(str(values["solver"])):
        values.pop(name, None)
    try:
        config: Any = values
        return TrainConfig(**config)
    except ConfigError as error:
        raise MessageError(str(error)) from None


def welcome_knobs() -> list[dict[str, object]]:
    """Return the knobs as the page reads them."""
    return [asdict(knob) for knob in KNOBS]


@dataclass(frozen=True)
class Message:
    """A message that was checked."""

    type: str
    fields: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


Check = Callable[[object], object]


def _whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_NUMBER:
        raise MessageError("is not a whole number of at least 0")
    return value


def _flag(value: object) -> object:
    if not isinstance(value, bool):
        raise MessageError("is not true or false")
    return value


def _text(most: int) -> Check:
    def check(value: object) -> object:
        if not isinstance(value, str) or len(value) > most:
            raise MessageError(f"is not a text of at most {most} letters")
        return value

    return check


def _one_of(*choices: str) -> Check:
    def check(value: object) -> object:
        if not isinstance(value, str) or value not in choices:
            raise MessageError(f"is not one of {', '.join(choices)}")
        return value

    return check


def _mistakes(value: object) -> object:
    if not isinstance(value, list) or len(value) > len(MISTAKES) or not all(one in MISTAKES for one in value):
        raise MessageError(f"is not a list of some of {', '.join(MISTAKES)}")
    return frozenset(value)


def _settings(value: object) -> object:
    if not isinstance(value, dict):
        raise MessageError("is not a table of settings")
    if unknown := [name for name in value if name not in BY_NAME]:
        raise MessageError(f"has no knob {unknown[0]!r:.40}")
    return config_of(value)


TEACH = ("add-class", "rename-class", "remove-class", "add-image", "remove-image")
# The fields of each message that comes in, with their checks; those in OPTIONAL may be missing.
FIELDS: dict[str, dict[str, Check]] = {
    "hello": {"token": _text(100)},
    "train": {"run": _whole, "data": _one_of(*DATA), "settings": _settings, "mistakes": _mistakes},
    "cancel": {},
    "cell": {"true": _whole, "predicted": _whole, "split": _one_of(*SPLITS)},
    "mistakes": {"split": _one_of(*SPLITS)},
    "open-test": {},
    "image": {"id": _whole},
    "explain": {"id": _whole},
    "teach": {"op": _one_of(*TEACH), "class": _text(MOST_NAME), "name": _text(MOST_NAME), "id": _whole},
    "keep": {"name": _text(MOST_NAME), "report": _flag, "onnx": _flag},
}
OPTIONAL: dict[str, dict[str, object]] = {
    "train": {"mistakes": frozenset()},
    "teach": {"name": "", "id": 0},
    "keep": {"name": "", "report": False, "onnx": False},
}


def read_text(text: str) -> Message:
    """Return the message of a text frame.

    Raises
    ------
    MessageError
        If it is not one of the protocol.
    """
    if len(text) > MOST_TEXT:
        raise MessageError(f"a message is longer than {MOST_TEXT:,} letters")
    return _checked(_parsed(text), {})


def read_bytes(data: bytes) -> Message:
    """Return the message of a binary frame, whose arrays are views of it; the errors are those of `read_text`."""
    if int.from_bytes(data[:4], "little") > MOST_HEADER:
        raise MessageError(f"the header of a frame is longer than {MOST_HEADER:,} bytes")
    return _checked(*unpack(data))


def _parsed(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MessageError("a message is not JSON") from None
    if not isinstance(found, dict):
        raise MessageError("a message is not an object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _checked(found: dict[str, Any], arrays: dict[str, np.ndarray]) -> Message:
    kind = found.get("type")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise MessageError(f"there is no message {kind!r:.40}")
    fields, optional = {}, OPTIONAL.get(kind, {})
    for name, check in FIELDS[kind].items():
        if name not in found and name in optional:
            fields[name] = optional[name]
            continue
        try:
            fields[name] = check(found.get(name))
        except MessageError as error:
            raise MessageError(f"{kind}: {name} {error}") from None
    needs_image = kind == "image" or (kind == "teach" and fields["op"] == "add-image")
    if needs_image != (len(arrays) == 1 and bool(arrays.keys() & {"file", "pixels"})) or (arrays and not needs_image):
        raise MessageError(f"{kind}: has {'no' if needs_image else 'an'} image")
    for name, array in arrays.items():
        shape = array.shape
        good = array.dtype == np.uint8 and (len(shape) == 1 if name == "file" else len(shape) == 3 and shape[2] == 4)
        if not good or not array.size:
            raise MessageError(f"{kind}: {name} is not the bytes of a file, or pixels (h, w, 4)")
    return Message(kind, fields, arrays)


def write_text(message: Mapping[str, object]) -> str:
    """Return a message without arrays; numbers that are not finite become null, which JSON has."""
    return json.dumps(_finite(message), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def pack(message: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a message with arrays as bytes."""
    named = [{"name": name, "dtype": array.dtype.name, "shape": array.shape} for name, array in arrays.items()]
    header = write_text({**message, "arrays": named}).encode()
    header += b" " * (-(4 + len(header)) % 8)
    parts = [struct.pack("<I", len(header)), header]
    for array in arrays.values():
        parts += [np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()]
        parts += [b"\0" * (-array.nbytes % 8)]
    return b"".join(parts)


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header of a binary frame, and its arrays, which are views of it.

    Raises
    ------
    MessageError
        If the bytes are not such a frame. Nothing is allocated before the sizes are checked.
    """
    if not 4 < len(data) <= MOST_BYTES:
        raise MessageError(f"a frame has {len(data):,} bytes; at most {MOST_BYTES:,} are taken")
    (length,) = struct.unpack("<I", data[:4])
    if length > len(data) - 4 or (4 + length) % 8:
        raise MessageError("a frame has no header")
    header = _parsed(data[4 : 4 + length])
    listed, arrays, start = header.get("arrays"), {}, 4 + length
    if not isinstance(listed, list) or len(listed) > MOST_ARRAYS:
        raise MessageError("a frame does not list its arrays")
    for entry in listed:
        name, dtype, shape = _entry(entry)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if start + size > len(data) or name in arrays:
            raise MessageError("a frame is shorter than its arrays")
        arrays[name] = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), math.prod(shape), start).reshape(shape)
        start += size + -size % 8
    if start != len(data):
        raise MessageError("a frame is longer than its arrays")
    return header, arrays


def _entry(entry: object) -> tuple[str, str, tuple[int, ...]]:
    """Return name, type and shape of an array as a header lists it."""
    found = entry if isinstance(entry, dict) else {}
    name, dtype, shape = found.get("name"), found.get("dtype"), found.get("shape")
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
        raise MessageError("a frame does not list its arrays")
    if not isinstance(shape, list) or len(shape) > 4 or not all(type(n) is int and 0 <= n <= MOST_BYTES for n in shape):
        raise MessageError("a frame does not list the shapes of its arrays")
    return name, dtype, tuple(shape)
