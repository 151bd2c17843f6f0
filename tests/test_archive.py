"""Reading chosen files of a folder or an archive, honest and hostile."""

import gzip
import os
import tarfile
import tracemalloc

import pytest

from onelayer.data.untrusted.archive import read_members
from onelayer.data.untrusted.reading import MAX_FILE_BYTES
from onelayer.errors import DataError

GIB = 2**30


def member(name, kind=tarfile.REGTYPE, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@pytest.fixture
def archive(tmp_path, tar_of):
    def write(*members, mode="w:gz"):
        path = tmp_path / "a.tar.gz"
        path.write_bytes(tar_of(*members, mode=mode))
        return path

    return write


def read(path, wanted=("a", "b")):
    return dict(read_members(path, wanted))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_reads_what_is_wanted_and_there(archive, mode):
    path = archive((member("x", tarfile.DIRTYPE), b""), (member("x/a"), b"one"), (member("x/c"), b"two"), mode=mode)
    assert read(path) == {"a": b"one"}


def test_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"two")
    calls = []
    assert dict(read_members(tmp_path, ("a", "b"), lambda done, total: calls.append((done, total)))) == {"a": b"one"}
    assert calls == [(3, 3)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_that_ends_between_two_members_is_cut_off(tmp_path, tar_of, mode):
    whole = tar_of((member("x/a"), b"one"), (member("x/b"), b"two"), mode="w")
    path = tmp_path / "a.tar"
    for end in (1024, 2048):
        path.write_bytes(whole[:end] if mode == "w" else gzip.compress(whole[:end]))
        with pytest.raises(
            DataError, match=r"a\.tar: is cut off: the end mark of a tar archive is missing; fetch it ag"
        ):
            read(path)
    path.write_bytes(whole)
    assert read(path) == {"a": b"one", "b": b"two"}


def test_long_names_are_honest(archive):
    assert read(archive((member("long" * 100 + "/a"), b"one"))) == {"a": b"one"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (member("../a"), r"member '\.\./a' lies outside the archive's folder; refused"),
        (member("x/../../a"), "lies outside"),
        (member("/etc/a"), "lies outside"),
        (member("..\\a"), "lies outside"),
        (member("x/a", tarfile.SYMTYPE, link="/etc/passwd"), "member 'x/a' is a link; refused"),
        (member("x/a", tarfile.LNKTYPE, link="x/b"), "is a link; refused"),
        (member("x/a", tarfile.CHRTYPE), "is not a plain file or a folder; refused"),
        (member("x/a", tarfile.BLKTYPE), "is not a plain file or a folder; refused"),
        (member("x/a", tarfile.FIFOTYPE), "is not a plain file or a folder; refused"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_that_no_honest_archive_has(archive, bad, words, mode):
    path = archive((bad, b""), (member("x/b"), b"one"), mode=mode)
    with pytest.raises(DataError, match=rf"a\.tar\.gz: .*{words}"):
        read(path)


def test_a_wanted_file_twice(archive):
    with pytest.raises(DataError, match=r"a\.tar\.gz: holds a twice$"):
        read(archive((member("x/a"), b"one"), (member("y/a"), b"two")))


def peak_of(path, words):
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=words):
            read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bomb(path, head, zeros):
    """Write a gzip file of a head and this many zeros."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(zeros // 2**20):
            file.write(bytes(2**20))
    return path


def test_a_member_of_gigabytes(tmp_path):
    path = bomb(tmp_path / "a.tar.gz", member("x/a", size=3 * GIB).tobuf(), 2**20)
    assert peak_of(path, "member 'x/a' is 3072 MiB; refused, as the limit is 256 MiB") < 10**6


@pytest.mark.parametrize("name", ["x/other", "x/a"])
def test_members_of_zeros(tmp_path, name):
    size = 100 * 2**20
    path = bomb(tmp_path / "a.tar.gz", member(name, size=size).tobuf(), size)
    limit = 2**21 if name == "x/other" else 20 * 2**20
    assert peak_of(path, "decompresses to more than 20 times its size; refused as a bomb") < limit


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("packed", [True, False])
def test_a_header_of_gigabytes(tmp_path, kind, packed):
    head = member("x/a", kind, size=4 * GIB).tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "a.tar.gz"
    if packed:
        bomb(path, head, 50 * 2**20)
    else:
        path.write_bytes(head)
        os.truncate(path, 4 * GIB)  # sparse
    assert peak_of(path, "has a header of more than 1 MiB; refused as a bomb") < 4 * 2**20


def test_header_upon_header(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes((member("x", tarfile.GNUTYPE_LONGNAME).tobuf() * 1500) + bytes(1024))
    with pytest.raises(DataError, match="is damaged: a tar header makes no sense"):
        read(path)


def test_zeros_after_the_end(tmp_path, tar_of):
    path = bomb(tmp_path / "a.tar.gz", tar_of((member("x/a"), b"one"), mode="w"), 100 * 2**20)
    with pytest.raises(DataError, match="refused as a bomb"):
        read(path)


def test_damaged_archives(tmp_path, tar_of):
    good = tar_of((member("x/a"), os.urandom(5000)), (member("x/b"), os.urandom(5000)))
    path = tmp_path / "a.tar.gz"
    for content, words in {
        b"": "is damaged or not a tar archive",
        b"<html>Not found</html>" * 100: "is damaged or not a tar archive",
        good[:-4]: "is damaged or cut off",
        good[:2000]: "is damaged or cut off|cut off within 'x/a'",
        good[:9]: "is damaged or cut off|is damaged or not a tar archive",
        good[:4000] + b"\x55" + good[4001:]: "is damaged",
        gzip.decompress(good)[:3000]: "is damaged or not a tar archive|cut off within 'x/a'",
    }.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.tar\.gz: ({words})") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_no_cut_or_flip_escapes_as_another_error(tmp_path, tar_of):
    packed = tar_of((member("x/a"), b"one"), (member("x/b" * 60), b"two"))
    path = tmp_path / "a.tar.gz"
    for content, step in ((packed, 1), (gzip.decompress(packed)[:4096], 7)):
        for place in range(0, len(content), step):
            for damaged in (content[:place], content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]):
                path.write_bytes(damaged)
                try:
                    read(path)
                except DataError as error:
                    assert "\n" not in str(error)


def test_pipes_folders_and_missing_files(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(DataError, match=r"/a: is not a file$"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"/a: is not a folder or a file$"):
        read(tmp_path / "a")
    with pytest.raises(DataError, match=r"/none: cannot be read \(No such file or directory\)$"):
        read(tmp_path / "none")


def test_a_file_of_gigabytes_in_a_folder(tmp_path):
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", MAX_FILE_BYTES + 1)
    with pytest.raises(DataError, match="/a is 256 MiB; refused"):
        read(tmp_path)


def test_progress_ends_at_the_whole(archive):
    calls = []
    path = archive((member("x/a"), b"one"))
    list(read_members(path, ("a",), lambda done, total: calls.append((done, total))))
    assert calls[-1] == (path.stat().st_size,) * 2
