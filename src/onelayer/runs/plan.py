"""The plan of a run: its settings, and the data they are for."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from onelayer.config import SourceConfig, SplitConfig, TrainConfig
from onelayer.data import load, load_splits, split
from onelayer.data.dataset import Split, Splits, require_finite
from onelayer.data.protocols import BATCH_PROTOCOL
from onelayer.data.sources import load_for
from onelayer.errors import ConfigError, DataError
from onelayer.model import Model
from onelayer.processes import ALONE, Processes


@dataclass(frozen=True)
class Plan:
    """The settings of a run, and the data they are for.

    Parameters
    ----------
    config : TrainConfig
    split_config : SplitConfig
    source : str
        As `onelayer.data.load` takes it; a path is absolute.
    fingerprint : str
        Fingerprint of the data set as it was read.
    source_config : SourceConfig
        Settings by which the source was read.
    started : str
        Date and time of the start, ISO 8601 in UTC; empty in old runs.
    """

    config: TrainConfig
    split_config: SplitConfig
    source: str
    fingerprint: str
    source_config: SourceConfig = SourceConfig()
    started: str = field(default="", compare=False)

    def load_splits(
        self,
        source: str | None = None,
        progress: Callable[..., None] | None = None,
        processes: Processes = ALONE,
    ) -> Splits:
        """Read the run's own data again, from their old place or from `source`, for this one of the processes.

        Raises
        ------
        DataError
            If it is not the data that the run was trained on.
        """
        if source is None and Path(self.source).is_absolute() and not Path(self.source).exists():
            raise DataError(f"{self.source}: the data of this run are not there; if they were moved, pass --data")
        source_config = self.source_config
        splits = load_splits(
            source or self.source,
            self.split_config,
            source_config=source_config,
            progress=progress,
            processes=processes,
        )
        if splits.dataset.fingerprint != self.fingerprint:
            raise DataError(
                f"{source or self.source} is not the data of this run: its fingerprint begins with "
                f"{splits.dataset.fingerprint[:12]}, the run's with {self.fingerprint[:12]}; pass the right --data"
            )
        return splits

    def rows_to_evaluate(
        self,
        source: str | None,
        part: str | None,
        model: Model,
        progress: Callable[..., None] | None = None,
    ) -> tuple[Split, Splits | None, str | None]:
        """Return the rows to evaluate a model on, the splits that it was trained with, and a note.

        The splits are None where other data are evaluated, and the note where there is nothing to say.

        Parameters
        ----------
        source : str or None
            None is the place of the run's data. The run's own data at another place are divided as the run divided
            them. Other data have their own parts.
        part : str or None
            train, validation, test or all; None is test, or all rows of other data without test rows.
        model : Model
            Images of a folder are resized to its shape, and fitted as its training images were.

        Raises
        ------
        DataError
            If the data cannot be read, or have no such part.
        """
        if source is None:
            splits = self.load_splits(None, progress)
            return _named(splits, part or "test"), splits, None
        # evaluate has no options for how a source is read: what cannot be read is left out, and a note says so.
        config = replace(self.source_config, allow_unreadable=True)
        if model.image_shape is not None:
            config = replace(config, image_size="{2}x{1}".format(*model.image_shape), fit=model.fit)
        try:
            dataset = load_for(source, self.split_config, source_config=config, progress=progress)
        except ConfigError:
            if not config.coarse:
                raise
            config = replace(config, coarse=False)  # the source has classes of one kind only
            dataset = load_for(source, self.split_config, source_config=config, progress=progress)
        require_finite(dataset, progress)
        if dataset.fingerprint == self.fingerprint:
            try:
                splits = split(dataset, self.split_config, progress)
                return _named(splits, part or "test"), splits, None
            except ConfigError:  # a single part has the fingerprint of rows without parts
                if part == "all":
                    return dataset.everything, None, None
                what = f"{dataset.name} holds the rows of this run in other parts, so which it tested on is not known"
                raise DataError(f"{what}; pass the data as they were, or --split all") from None
        if set(BATCH_PROTOCOL.values()) <= set(dataset.parts):  # CIFAR-10, of which a protocol may read half
            dataset = load(source, source_config=config, progress=progress)
        parts = {name: [p for p in dataset.parts if p.startswith(name)] for name in ("test", "validation")}
        parts["train"] = [p for p in dataset.parts if p not in parts["test"] + parts["validation"]]
        note = f"{dataset.name} is not the data of this run; "
        if part == "all" or not (part or parts["test"]):
            more = "" if part else "it has no test part, so "
            return dataset.everything, None, f"{note}{more}all its rows are evaluated"
        part = part or "test"
        if not parts[part]:
            raise DataError(f"{dataset.name} has no {part} part of its own; leave --split out, or pass --split all")
        return dataset.only(part, parts[part]), None, f"{note}its {part} part is evaluated"


def _named(splits: Splits, part: str) -> Split:
    if part == "all":
        return splits.dataset.everything
    chosen: Split = getattr(splits, part)
    return chosen
