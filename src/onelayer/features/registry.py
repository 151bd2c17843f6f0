"""The list of feature maps that model files can hold."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onelayer.features.map import FeatureMap, UnitLength
from onelayer.features.patches import Patches

# Names of maps, and for each the function that makes it from the `tensors` and `facts` of a model file; a file without
# a map has the identity. A reader may raise KeyError, TypeError or ValueError for what does not fit.
FEATURE_MAPS: dict[str, Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], FeatureMap]] = {
    UnitLength.name: lambda tensors, facts: UnitLength(int(facts["numbers"])),
    Patches.name: Patches.read,
}
