"""A network in an ONNX file, run by onnxruntime after a look at what the file holds, which may come from a stranger."""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from onelayer.errors import ConfigError, DataError
from onelayer.features.map import Shape
from onelayer.words import printable

MOST_NUMBERS, MOST_BATCH = 2**22, 32  # of the images of a batch, and images; a frozen batch may be larger
MOST_FROZEN = 2**28  # numbers of a frozen batch
MOST_OPERATORS, MOST_NESTED = 2**20, 100  # of a network with its functions written out, and functions in each other
STANDARD = ("", "ai.onnx")  # names of the set of ONNX's own operators
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Network:
    """A network that takes prepared images and returns codes.

    One thread computes a batch, so that the bits of the codes do not depend on the number of cores. Several threads may
    call `codes` at the same time.

    Parameters
    ----------
    content : bytes
        The ONNX file.
    input_shape : tuple of 3 int
        Shape of a prepared image.
    output : str
        Name of the output; empty for the only one.
    where : str
        The file, for messages.

    Attributes
    ----------
    batch : int
        Images that are computed together.
    output : str
        Name of the output.

    Raises
    ------
    ConfigError
        If onnx or onnxruntime is not installed.
    DataError
        If the file is damaged, needs other files or operators than those of ONNX, or does not take these images.
    """

    def __init__(self, content: bytes, input_shape: Shape, output: str, where: str) -> None:
        self._where = where
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                f"{where}: encoders need the packages onnx and onnxruntime: pip install onnx onnxruntime ({error})"
            ) from None
        opset = _require_plain(content, where, onnx)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised too
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # each kind of error of the runtime has a class of its own
            remedy = f"export it again, with an opset that it knows (this is {opset}), or upgrade it"
            raise DataError(f"{where}: onnxruntime cannot load it ({_reason(error)}); {remedy}") from None
        self._input, frozen = self._only_input(input_shape)
        self.output = self._only_output(output)
        self._frozen = frozen is not None
        self.batch = frozen or max(1, min(MOST_BATCH, MOST_NUMBERS // math.prod(input_shape)))

    def _only_input(self, shape: Shape) -> tuple[Any, int | None]:
        """Return the input of images of this shape, and the number of images if it is frozen."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = printable(", ".join(given.name for given in inputs)) or "none"
            raise DataError(f"{self._where}: its inputs are {names}; export the part that takes images alone")
        (given,) = inputs
        sizes = [size if isinstance(size, int) else None for size in given.shape]
        fits = len(sizes) == 4 and all(size in (None, wanted) for size, wanted in zip(sizes[1:], shape, strict=True))
        if not fits or given.type not in TYPES:
            found = printable(f"{given.type} of the shape {tuple(given.shape)}")
            raise DataError(f"{self._where}: takes {found}; the settings beside it are for floats of (n, {shape})")
        if sizes[0] is not None and not 0 < sizes[0] * math.prod(shape) <= MOST_FROZEN:
            raise DataError(f"{self._where}: takes batches of {sizes[0]:,} images; export it with another size")
        return given, sizes[0]

    def _only_output(self, name: str) -> str:
        names = [output.name for output in self._session.get_outputs()]
        if name in names:
            return name
        if name or len(names) != 1:
            what = f"has no output {printable(name)!r}" if name else "has several outputs"
            raise DataError(f"{self._where}: {what}; write one of these as output: {printable(', '.join(names), 200)}")
        return names[0]

    def codes(self, X: np.ndarray) -> np.ndarray:
        """Return codes (n, d), float32, of at most `batch` prepared images (n, ...).

        Raises
        ------
        DataError
            If the runtime fails, or the output is not one row for each image.
        """
        n = len(X)
        if self._frozen and n < self.batch:
            X = np.concatenate([X, np.repeat(X[-1:], self.batch - n, axis=0)])
        try:
            (found,) = self._session.run([self.output], {self._input.name: X.astype(TYPES[self._input.type])})
        except Exception as error:  # each kind of error of the runtime has a class of its own
            raise DataError(f"{self._where}: onnxruntime cannot run it ({_reason(error)}); export it again") from None
        shape: tuple[int, ...] = found.shape if isinstance(found, np.ndarray) else ()  # a sequence has none
        # Some networks keep a height and width of 1.
        if len(shape) < 2 or shape[0] != len(X) or math.prod(shape[2:]) != 1 or found.dtype not in TYPES.values():
            what = printable(f"output {self.output} has the shape {shape} for {len(X)} images")
            raise DataError(f"{self._where}: its {what}; name an output of floats (n, d), such as the pooled one")
        return found.reshape(shape[:2])[:n].astype(np.float32)


def _require_plain(content: bytes, where: str, onnx: Any) -> int:
    """Return the opset of an ONNX file that needs no other file and no other operators than those of ONNX."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # of protobuf, which is not a package of its own here
        raise DataError(f"{where}: is damaged or not an ONNX file; export the encoder again") from None
    opsets = [opset.version for opset in model.opset_import if opset.domain in STANDARD]
    if not model.graph.node or not opsets:
        raise DataError(f"{where}: is damaged or not an ONNX file; export the encoder again")
    own = {(function.domain, function.name) for function in model.functions}  # made of other operators
    for part in _parts(model):
        if isinstance(part, onnx.TensorProto) and (part.external_data or part.data_location):
            remedy = f"write it as one file: onnx.save_model(onnx.load({where!r}), {where!r})"
            raise DataError(f"{where}: its weights are in another file; {remedy}")
        if isinstance(part, onnx.NodeProto) and (part.domain, part.op_type) not in own and part.domain not in STANDARD:
            name = printable(f"{part.domain}.{part.op_type}")
            raise DataError(f"{where}: needs the operator {name}, which is not ONNX's own; export it without that")
    if not _has_few_operators(model, onnx):
        raise DataError(f"{where}: its functions stand for too many operators; export it without functions")
    return max(opsets)


def _has_few_operators(model: Any, onnx: Any) -> bool:
    """Return whether a network has few operators once each function in it is replaced by its own operators."""
    calls = {
        key: [(node.domain, node.op_type) for node in _parts(part) if isinstance(node, onnx.NodeProto)]
        for key, part in [(None, model.graph), *(((one.domain, one.name), one) for one in model.functions)]
    }
    sizes = dict.fromkeys(calls, 0)
    for _ in range(MOST_NESTED):
        before, sizes = sizes, {key: sum(sizes.get(call, 1) for call in of_key) for key, of_key in calls.items()}
        if max(sizes.values()) > MOST_OPERATORS:
            return False
        if sizes == before:
            return True
    return False


def _parts(message: Any) -> Iterator[Any]:
    """Yield a message of protobuf and all that it contains, at any depth; protobuf itself refuses more than 100."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "append") else [value]:
                yield from _parts(part)


def _reason(error: Exception) -> str:
    """Return the first line of a message of the runtime without its number and the place in its source."""
    line = str(error).strip().partition("\n")[0]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+:\d+ .*?\) ", "", line)
    return printable(line or type(error).__name__, 200)
