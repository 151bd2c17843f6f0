"""The list of feature maps that files can hold, and their way into files and back."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.errors import ModelFileError
from onelayer.features.encoder import Encoder
from onelayer.features.function import Function
from onelayer.features.map import FeatureMap, UnitLength
from onelayer.features.patches import Patches

# Names of maps, and for each the function that makes it from the `tensors` and `facts` of a model file; a file without
# a map has the identity. A reader may raise KeyError, TypeError, ValueError or OverflowError for what does not fit.
FEATURE_MAPS: dict[str, Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], FeatureMap]] = {
    UnitLength.name: lambda tensors, facts: UnitLength(int(facts["numbers"])),
    Patches.name: Patches.read,
    Encoder.name: Encoder.read,
    Function.name: Function.read,
}
PREFIX = "features."  # before the names of a map's arrays in a file


def pack_map(features: FeatureMap, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the metadata with which a file holds a map.

    Raises
    ------
    ModelFileError
        If the map has no reader.
    """
    if features.name not in FEATURE_MAPS:
        raise ModelFileError(f"{where}: its features {features.name} are not in FEATURE_MAPS; add their reader")
    tensors = {PREFIX + name: tensor for name, tensor in features.tensors().items()}
    return tensors, {"features": json.dumps({**features.facts(), "name": features.name})}


def unpack_map(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> FeatureMap | None:
    """Return the map that a file holds among its arrays and metadata; None if it holds none.

    Raises
    ------
    ModelFileError
        If it is damaged, or this onelayer does not have it.
    """
    of_map = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    try:
        if "features" not in metadata and not of_map:
            return None
        facts = json.loads(metadata["features"])
        name = facts["name"]
        if name not in FEATURE_MAPS:
            known = ", ".join(FEATURE_MAPS) or "no map"
            raise ModelFileError(f"{path}: needs the features {name!r:.40}; this onelayer has {known}; upgrade it")
        return FEATURE_MAPS[name](of_map, facts)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{path}: the features are damaged ({error!r:.80}); train the model again") from None
