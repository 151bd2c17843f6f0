"""The studies by name: the coursework beside its printed figures, and the bonus exercises."""

from dataclasses import replace

from onelayer.config import COURSEWORK
from onelayer.experiments.coursework.printed import PRINTED
from onelayer.experiments.study.questions import Effect, Reported, Setting, Study

REPORTED = tuple(
    Reported(
        Setting("batch", replace(COURSEWORK, learning_rate=printed.learning_rate, l2=printed.l2)),
        {(split, epoch): accuracy for split, epoch, accuracy in printed.figures},
    )
    for printed in PRINTED
)
LONGEST_STEPS, PLAIN, SMALL_PENALTY, LARGE_PENALTY = (reported.setting for reported in REPORTED)
ALL_DATA = Setting("full", PLAIN.config)
FLIPS = Setting("full", replace(PLAIN.config, flip=True))
LONG_STEPS = Setting("full", replace(FLIPS.config, learning_rate=0.01))
DECAY = Setting("full", replace(LONG_STEPS.config, decay_every=10))
SIGMOID = Setting("batch", replace(PLAIN.config, loss="sigmoid", learning_rate=0.01))
GRID = replace(COURSEWORK, flip=True, epochs=60, decay_every=12, decay_factor=0.2)

BONUS = {
    "all-data": Study(effects=(Effect("training on all five batches instead of one", PLAIN, ALL_DATA),)),
    "flips": Study(effects=(Effect("flips, on all batches", ALL_DATA, FLIPS),)),
    "decay": Study(effects=(Effect("step decay of a learning rate of 0.01, with flips", LONG_STEPS, DECAY),)),
    "sigmoid": Study(
        effects=(Effect("a sigmoid for each class instead of softmax", PLAIN, SIGMOID),),
        probabilities=(PLAIN, SIGMOID),
    ),
    "grid": Study(
        grid=tuple(
            Setting("full", replace(GRID, learning_rate=learning_rate, l2=l2))
            for learning_rate in (0.005, 0.01, 0.02)
            for l2 in (0.005, 0.01, 0.015)
        )
    ),
}
STUDIES: dict[str, Study] = {
    "coursework": Study(
        reported=REPORTED,
        effects=(
            Effect("a learning rate of 0.001 instead of 0.1", LONGEST_STEPS, PLAIN),
            Effect("lambda 0.1 instead of 0", PLAIN, SMALL_PENALTY),
            Effect("lambda 1 instead of 0.1", SMALL_PENALTY, LARGE_PENALTY),
        ),
    ),
    "bonus": sum(BONUS.values(), Study()),
    **BONUS,
}
