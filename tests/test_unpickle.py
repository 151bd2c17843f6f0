"""The pickle reader: agrees with pickle.load on honest files, and refuses everything else in one line."""

import hashlib
import io
import os
import pickle
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelayer.data.formats.cifar_sets import CIFAR10
from onelayer.data.untrusted.unpickle import read_pickle
from onelayer.errors import DataError

ROWS = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
BATCH = {"data": ROWS, "labels": [1, 9, 0], "filenames": ["a.png", "é.png"], "batch_label": b"one"}


def same(left, right):
    assert left.keys() == right.keys()
    for key, value in right.items():
        np.testing.assert_array_equal(left[key], value)
        assert type(left[key]) is type(value)


@pytest.mark.parametrize("part", ["data_batch_1", "test_batch", "batches.meta"])
def test_official_files_as_pickle_reads_them(cifar, part):
    content = (cifar / part).read_bytes()
    official = {**CIFAR10.python_md5, "batches.meta": "5ff9c542aee3614f3951f8cda6e48888"}
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert md5 == official[part], "to unpickle it would run whatever it holds"
    expected = {key.decode(): value for key, value in pickle.loads(content, encoding="bytes").items()}
    same(read_pickle(content, part), expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("rows", [ROWS, np.asfortranarray(ROWS), ROWS[::2], ROWS.astype(">i4")], ids=str)
def test_subsets_that_python_3_writes(protocol, rows):
    batch = BATCH | {"data": rows, "labels": list(np.array([3, 1], np.int64)), "labels too": np.array([3, 300])}
    found = read_pickle(pickle.dumps(batch, protocol), "x")
    same(found, batch | {"labels": [3, 1]})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_read_only_and_empty_arrays(protocol):
    rows = ROWS.copy()
    rows.flags.writeable = False
    batch = {"data": rows, "more": [True, None, 2**40]}
    same(read_pickle(pickle.dumps(batch, protocol), "x"), batch)
    if protocol > 2:
        assert read_pickle(pickle.dumps({"data": ROWS[:0]}, protocol), "x")["data"].shape == (0, 3072)


def test_pixels_are_not_copied():
    content = pickle.dumps(BATCH, 4)
    assert np.shares_memory(read_pickle(content, "x")["data"], np.frombuffer(content, np.uint8))


class Touch:
    """Makes pickle.load run a command, to prove that the reader does not."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluate(Touch):
    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("attack", [Touch, Evaluate])
@pytest.mark.parametrize("protocol", [2, 4])
def test_runs_no_code(attack, protocol, tmp_path):
    mark = tmp_path / "mark"
    content = pickle.dumps({"data": attack(mark)}, protocol)
    with pytest.raises(DataError, match=r"^batch: refuses to unpickle the global \w+\.(system|eval) \(byte \d+\)$"):
        read_pickle(content, "batch")
    assert not mark.exists()
    pickle.loads(content)  # the attack is a real one
    assert mark.exists()


START = b"\x80\x02}U\x04data"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02u1\x89\x88\x87R"
STATE = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param(b"(ios\nsystem\n", "the opcode 0x69", id="INST"),
        pytest.param(b"(cos\nsystem\nU\x02ido", "the global os.system", id="OBJ"),
        pytest.param(b"(cnumpy\nndarray\nU\x02ido", "the opcode 0x6f", id="OBJ of an allowed global"),
        pytest.param(b"cnumpy\nndarray\n)\x81", "the opcode 0x81", id="NEWOBJ"),
        pytest.param(b"cnumpy\nndarray\n)}\x92", "the opcode 0x92", id="NEWOBJ_EX"),
        pytest.param(b"\x8c\x02os\x8c\x06system\x93", "the global os.system", id="STACK_GLOBAL"),
        pytest.param(b"cos\n\x1b[2Jsystem\n", r"the global os\.\\x1b\[2Jsystem", id="control characters"),
        pytest.param(b"\x82\x01", "the opcode 0x82", id="EXT1"),
        pytest.param(b"Pid\n", "the opcode 0x50", id="PERSID"),
        pytest.param(b"cnumpy\ndtype\nU\x02|O\x89\x88\x87R", "an array without numbers", id="object dtype"),
        pytest.param(b"cnumpy\ndtype\n)R", "a call that does not make an array", id="REDUCE"),
        pytest.param(b"U\x01x)R", "a call that does not make an array", id="REDUCE of a text"),
        pytest.param(b"}}b", "a state that does not belong to an array", id="BUILD of a dict"),
        pytest.param(ARRAY + ARRAY + b"}bb", "a state that does not belong to an array", id="nested BUILD"),
        pytest.param(ARRAY + b"(K\x01K\x02\x85" + DTYPE + STATE + b"\x89]tb", "an array that is not plain", id="list"),
        pytest.param(ARRAY + b"s.", "an array without contents", id="no BUILD"),
        pytest.param(DTYPE + b"s.", "a bare type", id="bare dtype"),
        pytest.param(
            ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + STATE + b"\x89U\x02abtb",
            r"shape \(2147483647,\) and 1-byte numbers in 2 bytes",
            id="shape beyond the bytes",
        ),
        pytest.param(ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + STATE + b"\x89U\x00tb", "strange", id="negative"),
        pytest.param(b"h\x07", "recalls an object that it did not store", id="memo"),
        pytest.param(b"0", "the opcode 0x30", id="POP"),
        pytest.param(b"ss", "takes more objects than it has put", id="underflow"),
        pytest.param(b"(R", "takes more objects than it has put", id="underflow to the mark"),
        pytest.param(b"t", "closes a group that it did not open", id="no mark"),
        pytest.param(b"K\x00K\x01e", "closes a group that it did not open", id="no mark of a list"),
        pytest.param(b"K\x00a", "adds to an object that is not a list", id="append"),
        pytest.param(b"K\x00s(K\x00u", "a key without a value", id="odd"),
        pytest.param(b"K\x00s}K\x01K\x02s", "a key that is not text", id="key"),
        pytest.param(b"T\xff\xff\xff\xff", "ends too early", id="length beyond the end"),
        pytest.param(b"X\x01\x00\x00\x00\xff", "not UTF-8", id="text"),
        pytest.param(b"K\x01.", "does not end with one dict", id="no dict"),
    ],
)
def test_refusals(code, words):
    with pytest.raises(DataError, match=f"^x: .*{words}.*\\(byte \\d+\\)$"):
        read_pickle(START + code, "x")


@pytest.mark.parametrize("content", [b"", b"\x80", b"(dp0\n.", b"\x80\x06}.", b"<html>"])
def test_other_files(content):
    with pytest.raises(DataError, match=r"^x: is not a pickle of protocol 2 to 5$"):
        read_pickle(content, "x")


def test_few_bytes_make_few_objects():
    with pytest.raises(DataError, match="too many objects for its size"):
        read_pickle(b"\x80\x02" + b"}" * 1_000_000, "x")
    text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x00"
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(DataError, match="refuses to unpickle more bytes than it holds"):
        read_pickle(b"\x80\x02}" + text + again * 100, "x")


def test_deep_nesting_and_references_to_references_cost_nothing():
    nested = b"\x80\x02}U\x01a]" + b"\x85" * 15_000 + b"s."
    assert type(read_pickle(nested, "x")["a"]) is tuple
    doubled = b"\x80\x02}U\x01a)q\x00" + b"h\x00\x86q\x00" * 1000 + b"s."  # 2 ** 1000 empty tuples, if written out
    assert len(read_pickle(doubled, "x")["a"]) == 2


def attempt(content):
    try:
        assert type(read_pickle(content, "x")) is dict
    except DataError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error) and len(str(error)) < 200


SMALL = [
    pickle.dumps({b"data": ROWS[:, :4], b"labels": [1, 2, np.int64(3)], "n": [None, True, 2**40, "x"]}, protocol)
    for protocol in (2, 3, 4, 5)
]


@given(st.binary(max_size=200), st.sampled_from([2, 4, 5]))
def test_any_bytes_give_a_dict_or_a_data_error(content, protocol):
    attempt(bytes([0x80, protocol]) + content)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(SMALL))
def test_a_damaged_pickle_gives_a_dict_or_a_data_error(data, content):
    damaged = bytearray(content)
    for place, byte in data.draw(st.dictionaries(st.integers(2, len(content) - 1), st.integers(0, 255))).items():
        damaged[place] = byte
    attempt(bytes(damaged[: data.draw(st.integers(0, len(content)))]))
    attempt(bytes(damaged))


def test_every_flipped_bit_and_every_cut():
    rng = random.Random(0)
    for content in SMALL:
        for place in range(len(content)):
            attempt(content[:place])
            for bit in (0, 2, 4, 7):
                attempt(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        for _ in range(500):  # opcodes at random places, which meet more of the machine than random bytes
            damaged = bytearray(content)
            for _ in range(rng.randint(1, 6)):
                damaged[rng.randrange(2, len(damaged))] = rng.choice(
                    b"()}]tRbsuaeqhNKJMUTCBXc.\x81\x85\x86\x93\x94\x96"
                )
            attempt(bytes(damaged))


def test_python_2_bytes_under_python_3(tmp_path):
    """A file that was read with encoding latin1 and written again has text keys; it is the same batch."""
    file = io.BytesIO()
    pickle.dump({key.encode(): value for key, value in BATCH.items()}, file, protocol=3)
    same(read_pickle(file.getvalue(), "x"), BATCH)
