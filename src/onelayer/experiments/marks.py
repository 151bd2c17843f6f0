"""The directories of sweeps and studies, which a marked file tells from others."""

from pathlib import Path

from onelayer.errors import RunError
from onelayer.files import is_marked
from onelayer.runs.directory import TEMPORARY


def is_made(path: Path, kind: str) -> bool:
    """Make a directory, unless it is there, and return whether it holds a sweep or a study, the `kind`, already.

    Raises
    ------
    RunError
        If it holds something else, or cannot be made.
    """
    mark = path / f"{kind}.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        present = [file.name for file in path.iterdir() if not TEMPORARY.fullmatch(file.name)]
        if present and not mark.exists():
            raise RunError(f"{path} holds {present[0]!r} and is not a {kind} of onelayer; choose another --out")
        if present and not is_marked(mark, kind):
            raise RunError(f"{mark} does not belong to a {kind} of onelayer; choose another --out")
    except OSError as error:
        raise RunError(f"cannot make the {kind} directory {path}: {error.strerror}; choose another --out") from None
    return bool(present)
