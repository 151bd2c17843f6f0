"""A reader of the pickles in which CIFAR-10 is published. It cannot run code.

``pickle.load`` runs any function that a file names. This reader knows only the few opcodes that a dict of arrays, lists
and strings needs, as Python 2 wrote them in the official files and Python 3 writes them (protocols 2 to 5). A global in
the file is looked up in a short table of symbols; nothing is imported. The pixels are not copied.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NoReturn

import numpy as np

from onelayer.errors import DataError

_Global = Enum("_Global", "RECONSTRUCT NDARRAY DTYPE SCALAR FROMBUFFER ENCODE")

_GLOBALS = {
    "numpy ndarray": _Global.NDARRAY,
    "numpy dtype": _Global.DTYPE,
    "_codecs encode": _Global.ENCODE,  # Python 3 writes bytes so under protocol 2
} | {
    f"numpy.{core}.{symbol}": value
    for core in ("core", "_core")
    for symbol, value in {
        "multiarray _reconstruct": _Global.RECONSTRUCT,
        "multiarray scalar": _Global.SCALAR,
        "numeric _frombuffer": _Global.FROMBUFFER,
    }.items()
}
_DTYPES = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")

# Opcodes by their byte. The number is the size in bytes of the integer or the length that follows the opcode.
_PROTO, _FRAME, _STOP, _MARK = 0x80, 0x95, ord("."), ord("(")
_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False}
_INTEGERS = {ord("J"): 4, ord("K"): 1, ord("M"): 2}
_LONG1 = 0x8A
_BYTES = {ord("U"): 1, ord("T"): 4, ord("C"): 1, ord("B"): 4, 0x8E: 8, 0x96: 8}
_TEXTS = {0x8C: 1, ord("X"): 4, 0x8D: 8}
_TUPLES = {ord(")"): 0, 0x85: 1, 0x86: 2, 0x87: 3}
_TUPLE, _EMPTY_LIST, _EMPTY_DICT = ord("t"), ord("]"), ord("}")
_APPEND, _APPENDS, _SETITEM, _SETITEMS = ord("a"), ord("e"), ord("s"), ord("u")
_PUTS, _GETS, _MEMOIZE = {ord("q"): 1, ord("r"): 4}, {ord("h"): 1, ord("j"): 4}, 0x94
_GLOBAL, _STACK_GLOBAL, _REDUCE, _BUILD = ord("c"), 0x93, ord("R"), ord("b")


@dataclass
class _Dtype:
    kind: str
    order: Literal["|", "<", ">"] | None = None  # None until BUILD


@dataclass
class _Array:
    values: np.ndarray | None = None  # None until BUILD


def read_pickle(content: bytes, name: str) -> dict[str, Any]:
    """Read a pickled dict.

    Parameters
    ----------
    content : bytes
        The whole file.
    name : str
        The name of the file in messages.

    Returns
    -------
    dict
        The keys are str. A value is an ndarray (mostly a read-only view of `content`), list, tuple, dict, str, bytes,
        memoryview, int, bool or None.

    Raises
    ------
    DataError
        If the file is damaged, or needs anything else.
    """
    return _Machine(content, name).run()


class _Machine:
    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        self.content = content
        self.view = memoryview(content)
        self.at = 0
        self.start = 0  # of the current opcode
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0
        # A row of 3072 pixels takes about five opcodes. A file with far more is made to fill the memory: an opcode
        # of one byte makes an object of up to a hundred bytes.
        self.steps_left = 20_000 + len(content) // 64

    def run(self) -> dict[str, Any]:
        if len(self.content) < 2 or self.content[0] != _PROTO or not 2 <= self.content[1] <= 5:
            raise DataError(f"{self.name}: is not a pickle of protocol 2 to 5")
        while (opcode := self.take(1)[0]) != _STOP:
            self.start = self.at - 1
            self.steps_left -= 1
            if self.steps_left < 0:
                self.refuse("too many objects for its size")
            self.step(opcode)
        result = self.pop()
        if type(result) is not dict or self.stack or self.marks:
            self.broken("does not end with one dict")
        return {key: self.finished(value) for key, value in result.items()}

    def step(self, opcode: int) -> None:
        push = self.stack.append
        if opcode in _INTEGERS:
            push(int.from_bytes(self.take(_INTEGERS[opcode]), "little", signed=opcode == ord("J")))
        elif opcode in _BYTES:
            push(self.take(self.integer(_BYTES[opcode])))
        elif opcode in _PUTS:
            self.memo[self.integer(_PUTS[opcode])] = self.top()
        elif opcode == _MEMOIZE:
            self.memo[len(self.memo)] = self.top()
        elif opcode in _GETS:
            key = self.integer(_GETS[opcode])
            if key not in self.memo:
                self.broken("recalls an object that it did not store")
            push(self.memo[key])
        elif opcode in _CONSTANTS:
            push(_CONSTANTS[opcode])
        elif opcode in _TEXTS:
            push(self.text(self.take(self.integer(_TEXTS[opcode]))))
        elif opcode == _LONG1:
            push(int.from_bytes(self.take(self.integer(1)), "little", signed=True))
        elif opcode in _TUPLES:
            push(tuple(self.pop_many(_TUPLES[opcode])))
        elif opcode == _TUPLE:
            push(tuple(self.pop_to_mark()))
        elif opcode == _MARK:
            self.marks.append(len(self.stack))
        elif opcode == _EMPTY_LIST:
            push([])
        elif opcode == _EMPTY_DICT:
            push({})
        elif opcode in (_APPEND, _APPENDS):
            items = self.pop_many(1) if opcode == _APPEND else self.pop_to_mark()
            self.top(list).extend(items)
        elif opcode in (_SETITEM, _SETITEMS):
            self.set_items(self.pop_many(2) if opcode == _SETITEM else self.pop_to_mark())
        elif opcode == _GLOBAL:
            push(self.find_global(f"{self.line()} {self.line()}"))
        elif opcode == _STACK_GLOBAL:
            module, symbol = self.pop_many(2)
            if not (type(module) is str and type(symbol) is str):
                self.broken("names a global without text")
            push(self.find_global(f"{module} {symbol}"))
        elif opcode == _REDUCE:
            function, arguments = self.pop_many(2)
            push(self.reduce(function, arguments))
        elif opcode == _BUILD:
            self.build(self.pop(), self.top())
        elif opcode == _PROTO:
            self.take(1)
        elif opcode == _FRAME:
            self.take(8)
        else:
            self.refuse(f"the opcode {opcode:#04x}")

    # what the opcodes do

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            self.broken("has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes):
                self.refuse("a key that is not text")
            target[key if type(key) is str else key.decode("latin-1")] = value

    def find_global(self, name: str) -> _Global:
        if name not in _GLOBALS:
            # repr keeps control characters in a name from the terminal
            self.refuse(f"the global {repr(name.replace(' ', '.'))[1:-1][:80]}")
        return _GLOBALS[name]

    def reduce(self, function: object, arguments: object) -> Any:
        match function, arguments:
            case _Global.RECONSTRUCT, (_Global.NDARRAY, (0,), b"b"):
                return _Array()
            case _Global.DTYPE, (str() | bytes() as kind, 0 | 1, 0 | 1):
                kind = kind if isinstance(kind, str) else kind.decode("latin-1")
                if kind not in _DTYPES:
                    self.refuse("an array without numbers")
                return _Dtype(kind)
            case _Global.SCALAR, (_Dtype() as dtype, raw):
                return self.array(raw, dtype, (), "C").item()
            case _Global.FROMBUFFER, (raw, _Dtype() as dtype, tuple() as shape, "C" | "F" as order):
                return _Array(self.array(raw, dtype, shape, order))
            case _Global.ENCODE, (str() as text, "latin1" | "latin-1"):
                return self.encode(text)
            case _:
                return self.refuse("a call that does not make an array")

    def encode(self, text: str) -> bytes:
        self.encoded += len(text)
        if self.encoded > len(self.content):  # one long text could be encoded again and again
            self.refuse("more bytes than it holds")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            self.broken("holds bytes above 255")

    def build(self, state: object, target: object) -> None:
        match target, state:
            case _Dtype(order=None), (3 | 4, "|" | b"|", None, None, None, -1, -1, 0):
                target.order = "|"
            case _Dtype(order=None), (3 | 4, "<" | b"<", None, None, None, -1, -1, 0):
                target.order = "<"
            case _Dtype(order=None), (3 | 4, ">" | b">", None, None, None, -1, -1, 0):
                target.order = ">"
            case _Array(values=None), (1, tuple() as shape, _Dtype() as dtype, bool() as fortran, raw):
                target.values = self.array(raw, dtype, shape, "F" if fortran else "C")
            case _:
                self.refuse("a state that does not belong to an array")

    def array(self, raw: object, dtype: _Dtype, shape: tuple[Any, ...], order: Any) -> np.ndarray:
        if not isinstance(raw, bytes | memoryview) or dtype.order is None:
            self.refuse("an array that is not plain numbers")
        if len(shape) > 4 or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
            self.broken("has an array of a strange shape")
        numbers = np.dtype(dtype.kind).newbyteorder(dtype.order)
        if math.prod(shape) * numbers.itemsize != len(raw):
            self.broken(f"has an array of shape {shape} and {numbers.itemsize}-byte numbers in {len(raw)} bytes")
        if 0 in shape:  # numpy.frombuffer refuses it
            return np.zeros(shape if len(shape) <= 2 else 0, numbers)
        return np.frombuffer(raw, numbers).reshape(shape, order=order)

    def finished(self, value: Any) -> Any:
        if isinstance(value, _Array):
            return self.broken("has an array without contents") if value.values is None else value.values
        if isinstance(value, _Dtype | _Global):
            return self.refuse("a bare type")
        return value

    # the file and the stack

    def take(self, size: int) -> bytes | memoryview:
        start = self.at
        self.at = end = start + size
        if end > len(self.content):
            self.broken("ends too early")
        return self.content[start:end] if size < 256 else self.view[start:end]

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self, content: bytes | memoryview) -> str:
        try:
            return str(content, "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self.broken("holds text that is not UTF-8")

    def line(self) -> str:
        end = self.content[self.at : self.at + 256].find(b"\n")
        if end < 0:
            self.broken("has a name without an end")
        return self.text(self.take(end + 1)[:-1])

    def top(self, kind: type = object) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.broken("takes more objects than it has put")
        if kind is not object and type(self.stack[-1]) is not kind:
            self.broken(f"adds to an object that is not a {kind.__name__}")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self.broken("closes a group that it did not open")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def broken(self, what: str) -> NoReturn:
        raise DataError(f"{self.name}: is damaged: the pickle {what} (byte {self.start})")

    def refuse(self, what: str) -> NoReturn:
        raise DataError(f"{self.name}: refuses to unpickle {what} (byte {self.start})")
