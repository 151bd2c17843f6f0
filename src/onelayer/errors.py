"""Errors that a user can correct, and warnings. Each message says what is wrong, where, and what to do, in one line.

Errors that `onelayer.SoftmaxClassifier` raises are ValueErrors too, like those of scikit-learn.
"""


class OnelayerError(Exception):
    """Base of all errors that onelayer raises on purpose."""


class ConfigError(OnelayerError, ValueError):
    """A setting is out of its range, or does not fit other settings."""


def wrong_type(name: str, value: object, wanted: str) -> ConfigError:
    """Return the error for an argument of another type than the one that is wanted."""
    return ConfigError(f"{name} is of the type {type(value).__name__}; pass {wanted}")


class DataError(OnelayerError):
    """A data source is missing, damaged, or has unsuitable contents."""


class DownloadError(DataError):
    """A data set could not be fetched."""


class FeatureError(DataError, ValueError):
    """The numbers of a feature are too large to calculate with."""


class ModelFileError(OnelayerError):
    """A model or checkpoint file is damaged, or was written by a newer version."""


class RunError(OnelayerError):
    """A run directory cannot be made, read or written."""


class ProcessError(OnelayerError):
    """Another process, with which this one works, has ended before its work was done."""


class DivergedError(OnelayerError, ValueError):
    """The cost has stopped being a finite number.

    Attributes
    ----------
    epoch : int
        The epoch, counted from 1, after which the cost was not finite.
    """

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class OnelayerWarning(UserWarning):
    """The input is accepted, but may be a mistake."""


class UnitWarning(OnelayerWarning):
    """The unit of the rows differs from that of the training rows."""


class OldModelWarning(OnelayerWarning):
    """A model file comes from an old onelayer, which left random weights on features that were constant in training."""
