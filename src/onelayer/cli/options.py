"""Options that several commands share, and the groups in which --help shows them."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from onelayer.config import SourceConfig, SplitConfig, TrainConfig

# --help shows the groups in this order, and the options of no group after them.
DATA = Group("Data", sort_key=1)
SPLIT = Group(
    "Split",
    sort_key=2,
    help="Protocol batch takes CIFAR-10's batches 1 and 2 and its test batch; given takes the source's own parts; "
    "full takes the source's test rows and draws validation rows from all others; stratified draws both by class. "
    "Default: batch for CIFAR-10, given if the source has validation rows, full if it has test rows, else stratified.",
)
TRAINING = Group("Training", sort_key=3)
RUNS = Group("Runs", sort_key=4)
OUTPUT = Group("Output", sort_key=5)

RunArgument = Annotated[Path, Parameter(name="RUN", help="Run directory.")]

Data = Annotated[
    str,
    Parameter(
        group=DATA,
        help="Source of the rows: cifar10, cifar100, mnist, fashion-mnist, kmnist, digits, or a path; "
        "auto takes cifar10 if it is here or can be downloaded, else digits.",
    ),
]
MovedData = Annotated[
    str | None, Parameter(group=DATA, help="Path of the data, if they have moved since the training.")
]
Source = Annotated[SourceConfig, Parameter(name="*", group=DATA)]
Division = Annotated[SplitConfig, Parameter(name="*", group=SPLIT)]
Training = Annotated[TrainConfig, Parameter(name="*", group=TRAINING)]

Preset = Annotated[
    Literal["coursework"] | None,
    Parameter(
        group=TRAINING,
        help="Settings to start from instead of the defaults; coursework has those of the course "
        "(learning rate 0.001, 40 epochs, random initial weights of 0.01). Other options and --config win.",
    ),
]

FirstSeed = Annotated[int, Parameter(group=RUNS, help="First seed; the others follow it.")]
Workers = Annotated[
    int,
    Parameter(
        group=RUNS,
        help="Runs that are trained at the same time; 0 is one for each core. The results do not depend on it.",
    ),
]

OutDirectory = Annotated[Path | None, Parameter(group=OUTPUT)]
Overwrite = Annotated[bool, Parameter(group=OUTPUT, help="Replace what --out holds, if onelayer wrote it.")]
NoFigures = Annotated[bool, Parameter(group=OUTPUT, help="Draw no pictures.")]
Quiet = Annotated[bool, Parameter(group=OUTPUT, help="Print errors only.")]
ConfigFile = Annotated[
    Path | None,
    Parameter(
        name="--config",
        help="TOML file of options by these names, several values as a list; the command line wins.",
    ),
]
