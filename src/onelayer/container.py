"""Model and checkpoint files: safetensors with the kind and the version of the format, and a checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.errors import ModelFileError

FORMAT_VERSION = 1
CHECKSUM, UNKNOWN = "checksum", "0" * 64
MAX_FILE_BYTES = 2 << 30  # more than 1,000 classes of 100,000 features in float64


def pack(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], *, kind: str) -> bytes:
    """Return a safetensors file of named arrays, with the kind and version of its format: same input, same bytes.

    Its metadata hold a ``checksum``: the SHA-256 of the whole file with 64 zeros in the place of the checksum.
    """
    from safetensors.numpy import save

    # safetensors writes the buffer as it lies in memory: an array that is not contiguous would be scrambled.
    content = save(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        {"format": f"onelayer-{kind}", "version": str(FORMAT_VERSION), **metadata, CHECKSUM: UNKNOWN},
    )
    # A file is the header's length in 8 bytes, the header, and the arrays. The library shuffles the metadata.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    begin, arrays = len(header).to_bytes(8, "little") + header, memoryview(content)[end:]
    return b"".join((begin.replace(_stated(UNKNOWN), _stated(_sha256(begin, arrays)), 1), arrays))


def unpack(path: str | Path, *, kind: str, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return arrays and metadata of a file that `pack` made: finite floating-point arrays of these names.

    A file may hold others whose names have a dot: those of a feature map, which may be bytes too.

    Raises
    ------
    ModelFileError
        If it is missing, damaged, of another kind, or of a newer format. Older files have no checksum.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelFileError(f"{path}: {size:,} bytes are more than a {kind} of onelayer can have")
        content = path.read_bytes()
        tensors = {name: tensor.copy() for name, tensor in load(content).items()}  # in writable memory
        end = 8 + int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8:end]).get("__metadata__", {})
        checksum = stated_checksum(metadata)
    except IsADirectoryError:
        inside = path / f"{kind}.safetensors"
        raise ModelFileError(f"{path}: is a folder; pass the file of the {kind}, such as {inside}") from None
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: damaged or not a {kind} file ({error}); restore it, or train again") from None
    if metadata.get("format") != f"onelayer-{kind}":
        raise ModelFileError(f"{path}: this is not a {kind} of onelayer")
    version = metadata.get("version", "")
    if version != str(FORMAT_VERSION):
        raise ModelFileError(
            f"{path}: format version {version:.20} is not the one that this onelayer reads, "
            f"{FORMAT_VERSION}; upgrade it"
        )
    begin = content[:end].replace(_stated(checksum), _stated(UNKNOWN), 1)
    if checksum and _sha256(begin, memoryview(content)[end:]) != checksum:
        raise ModelFileError(f"{path}: damaged: its checksum is not that of its content; train the model again")
    if {name for name in tensors if "." not in name} != set(names):
        raise ModelFileError(f"{path}: holds {sorted(tensors)}, expected {sorted(names)}; restore it, or train again")
    require_numbers(path, tensors)
    return tensors, metadata


def is_packed(content: bytes, kind: str) -> bool:
    """Return whether the content of a file says that it is a `kind` of onelayer, even if it is damaged or newer."""
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        return bool(json.loads(content[8:end])["__metadata__"]["format"] == f"onelayer-{kind}")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def stated_checksum(table: Mapping[str, Any]) -> str:
    """Return the checksum that a table of a file states, or an empty text if an older file has none.

    Raises
    ------
    ValueError
        If a letter of the word checksum is damaged.
    """
    for key in table:
        if len(key) == len(CHECKSUM) and sum(a != b for a, b in zip(key, CHECKSUM, strict=True)) == 1:
            raise ValueError(f"{key!r} for {CHECKSUM!r}")
    return str(table.get(CHECKSUM, ""))


def _sha256(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _stated(checksum: str) -> bytes:
    """Return a checksum with its name, as the header of a file has them."""
    return f'"{CHECKSUM}":"{checksum}"'.encode()


def require_numbers(where: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays other than finite float32 and float64; a history may have holes, and a feature map bytes."""
    for name, tensor in tensors.items():
        if tensor.dtype == np.uint8 and "." in name:
            continue
        if tensor.dtype not in (np.float32, np.float64):
            raise ModelFileError(f"{where}: {name} is {tensor.dtype}, expected float32 or float64")
        if name != "history" and not np.isfinite(tensor).all():
            raise ModelFileError(f"{where}: {name} holds a number that is not finite; train the model again")
