"""The errors that a user can mend, and warnings. Each message says what is wrong, where, and what to do, in one line.

Those that `onelayer.SoftmaxClassifier` raises are ValueErrors too, as scikit-learn's own are in such cases.
"""


class OnelayerError(Exception):
    """Base of all errors that onelayer raises on purpose."""


class ConfigError(OnelayerError, ValueError):
    """A setting is out of its range, or does not fit the others."""


class DataError(OnelayerError):
    """A data source is missing, damaged, or does not hold what it should."""


class DownloadError(DataError):
    """A data set could not be fetched."""


class FeatureError(DataError, ValueError):
    """The numbers of a feature are too large to calculate with."""


class ModelFileError(OnelayerError):
    """A model or checkpoint file is damaged, or was written by a newer version."""


class RunError(OnelayerError):
    """A run directory cannot be made, read or written."""


class DivergedError(OnelayerError, ValueError):
    """The cost is no longer a finite number.

    Attributes
    ----------
    epoch : int
        The epoch, counted from 1, after which the cost was not finite.
    """

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class OnelayerWarning(UserWarning):
    """Something was done that may not be what was meant."""


class UnitWarning(OnelayerWarning):
    """Rows are in another unit than those that the model was trained on."""


class OldModelWarning(OnelayerWarning):
    """A model file is of an onelayer that left random weights on features that were constant in training."""
