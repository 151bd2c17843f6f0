"""The names of arrays: they tell the role (rows, labels or class names), the part, and the place of a shard."""

import re
from itertools import pairwise
from pathlib import Path

from onelayer.data.dataset import PARTS
from onelayer.data.untrusted.reading import file_at
from onelayer.errors import DataError
from onelayer.words import printable

_ROLES = {
    "rows": ("x", "images", "features", "embeddings", "data", "img_emb"),
    "labels": ("y", "labels", "label", "targets", "target"),
    "class names": ("class_names", "label_names", "target_names"),
}
_PART = "|".join(PARTS)
_NAMES = {
    role: re.compile(rf"(?:({_PART})[_-]?)?(?:{'|'.join(names)})(?:[_-]?({_PART}))?") for role, names in _ROLES.items()
}
# A piece of the embeddings of images, as programs for many images write, or of their labels.
_SHARD = re.compile(r"(img_emb|labels)_(\d{1,9})")
_ONE = (".npy", ".pt")  # suffixes of files of one array
_UNDERSTOOD = (
    f"rows are called {', '.join(_ROLES['rows'])}, labels {', '.join(_ROLES['labels'])}, "
    "both alone or with _train, _val and _test"
)
BESIDE = (
    "rows and labels in .npy files lie in one folder: X.npy and y.npy, or img_emb_0.npy, img_emb_1.npy, ... and "
    "labels.npy or labels_0.npy, labels_1.npy, ..."
)

Places = dict[tuple[str, str], str]  # the names of arrays by their role and part


def is_npy(name: str) -> bool:
    """Return whether a file of this name is NumPy's."""
    return name.lower().endswith(".npy")


def is_array(name: str) -> bool:
    """Return whether a file of this name holds one array."""
    return name.lower().endswith(_ONE)


def stem_of(name: str) -> str:
    """Return the name of the array in a file of this name; shards have one name."""
    stem = Path(name).stem
    match = _SHARD.fullmatch(stem)
    return match[1] if match else stem


def files_of(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each array in a folder, by its name; an array in shards has several, in their order."""
    found = [file_at(file) for file in sorted(folder.iterdir()) if is_array(file.name)]
    files: dict[str, list[Path]] = {}
    for file in (file for file in found if not file.is_dir()):
        files.setdefault(stem_of(file.name), []).append(file)
    for name, several in files.items():
        number_of = {file: int(match[2]) if (match := _SHARD.fullmatch(file.stem)) else -1 for file in several}
        several.sort(key=number_of.__getitem__)
        for one, other in pairwise(several):
            if number_of[one] in (-1, number_of[other]):
                names = printable(f"{one.name}, {other.name}")
                raise DataError(f"{folder}: {names} are the same array by their names; keep one of them")
        if number_of[several[0]] >= 0:
            for number, file in enumerate(several, min(1, number_of[several[0]])):
                if number_of[file] != number:
                    raise DataError(f"{folder}: lacks the shard {name}_{number}; fetch it, or number the others anew")
    return files


def role_of(name: str) -> tuple[str, str]:
    """Return the role of an array of this name (rows, labels, class names or "") and its part ("" for all rows)."""
    for role, pattern in _NAMES.items():
        if (match := pattern.fullmatch(name.lower())) and not all(match.groups()):
            part = PARTS.get(match[1] or match[2] or "", "")
            return (role, part) if role != "class names" or not part else ("", "")
    return "", ""


def places_of(source: Path, names: list[str]) -> tuple[Places, list[str]]:
    """Return the places of the arrays, each part's rows before its labels, and the names without a place."""
    found: Places = {}
    others = []
    for name in names:
        place = role_of(name)
        if not place[0]:
            others.append(name)
        elif place in found:
            what = " ".join(filter(None, [place[1], place[0]]))
            both = f"{found[place]} and {name}"
            raise DataError(f"{source}: {both} could both be the {what}; remove or rename one")
        else:
            found[place] = name
    parts = [part for part in ("", *dict.fromkeys(PARTS.values())) if {("rows", part), ("labels", part)} & set(found)]
    if not parts:
        held = printable(", ".join(others)) or "nothing"
        raise DataError(f"{source}: holds no array with a known name (found {held}); {_UNDERSTOOD}")
    if len(parts) > 1 and not parts[0]:
        pair = " and ".join(found.get(("rows", part)) or found["labels", part] for part in parts[:2])
        raise DataError(f"{source}: holds {pair}; remove the array of all rows, or those of the parts")
    for part in parts:
        for role, other in (("rows", "labels"), ("labels", "rows")):
            if (role, part) not in found:
                held, lone = printable(", ".join([*found.values(), *others])), found[other, part]
                advice = BESIDE if source.is_dir() and lone == "img_emb" else _UNDERSTOOD
                raise DataError(f"{source}: {lone} is there without {role} (found {held}); {advice}")
    ordered = [(role, part) for part in parts for role in ("rows", "labels")]
    return {place: found[place] for place in [*ordered, ("class names", "")] if place in found}, others


def places_beside(path: Path, names: list[str]) -> Places:
    """Return the places of a .npy file of rows and of its labels; the other files in its folder do not count."""
    role, part = role_of(path.stem)
    if role != "rows":
        what = f"is a file of {role}; pass the file of rows" if role else "has a name that is not known"
        if stem_of(path.name) != path.stem:
            raise DataError(f"{path}: is one of several shards; pass their folder, {path.parent}")
        raise DataError(f"{path}: {what}; {_UNDERSTOOD}")
    beside = [name for name in names if role_of(name) in (("labels", part), ("class names", ""))]
    found, _ = places_of(path, [path.stem, *beside])
    return {(role, ""): name for (role, _), name in found.items()}
