"""One-layer image classifiers: train, check and show softmax regression.

Everything public is here; each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onelayer.analysis.evaluation import evaluate as evaluate
    from onelayer.analysis.explanation import explain as explain
    from onelayer.analysis.gradcheck import check_gradients as check_gradients
    from onelayer.config import SourceConfig as SourceConfig
    from onelayer.config import SplitConfig as SplitConfig
    from onelayer.config import TrainConfig as TrainConfig
    from onelayer.data import Dataset as Dataset
    from onelayer.data import Split as Split
    from onelayer.data import Splits as Splits
    from onelayer.data import load as load
    from onelayer.data import load_splits as load_splits
    from onelayer.errors import OnelayerError as OnelayerError
    from onelayer.errors import OnelayerWarning as OnelayerWarning
    from onelayer.estimator import SoftmaxClassifier as SoftmaxClassifier
    from onelayer.features.standardizer import Standardizer as Standardizer
    from onelayer.layer import SoftmaxLayer as SoftmaxLayer
    from onelayer.model import Model as Model
    from onelayer.training.train import train as train

_ROOMS = {
    "SourceConfig": "config",
    "SplitConfig": "config",
    "TrainConfig": "config",
    "Dataset": "data",
    "Split": "data",
    "Splits": "data",
    "load": "data",
    "load_splits": "data",
    "OnelayerError": "errors",
    "OnelayerWarning": "errors",
    "SoftmaxClassifier": "estimator",
    "evaluate": "analysis.evaluation",
    "explain": "analysis.explanation",
    "check_gradients": "analysis.gradcheck",
    "SoftmaxLayer": "layer",
    "Model": "model",
    "Standardizer": "features.standardizer",
    "train": "training.train",
}
__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'onelayer' has no attribute {name!r}")
    value = getattr(import_module(f"onelayer.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]
