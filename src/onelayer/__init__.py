"""One-layer image classifiers: train, check and show softmax regression.

Everything public is named here, once; each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

# `import name as name` is the form that type checkers and editors take for public. At run time, this file reads these
# very lines to find the module of each name. A table of the names beside them would be a second list; a stub file would
# hide this one from whoever opens the package. Type checkers do not see the rest, or they would accept any name.
if TYPE_CHECKING:
    from onelayer.analysis.evaluation import Evaluation as Evaluation
    from onelayer.analysis.evaluation import evaluate as evaluate
    from onelayer.analysis.explanation import Explanation as Explanation
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
    from onelayer.experiments.pairing import compare as compare
    from onelayer.features.standardizer import Standardizer as Standardizer
    from onelayer.layer import SoftmaxLayer as SoftmaxLayer
    from onelayer.losses import LOSSES as LOSSES
    from onelayer.model import Model as Model
    from onelayer.runs.directory import Run as Run
    from onelayer.runs.directory import load_run as load_run
    from onelayer.training.public import train as train
    from onelayer.training.state import TrainingResult as TrainingResult
    from onelayer.training.state import TrainingState as TrainingState
    from onelayer.transformer import PatchFeatures as PatchFeatures
else:
    _LINES = map(str.split, __spec__.loader.get_data(__spec__.origin).decode().splitlines())
    _MODULES = {words[3]: words[1] for words in _LINES if words[:1] == ["from"] and words[1].startswith("onelayer.")}
    __all__ = sorted(_MODULES)

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'onelayer' has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return __all__
