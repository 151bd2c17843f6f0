"""The commands that look at many figures at once."""

from typing import Annotated

from cyclopts import Parameter

from onelayer.cli import app


@app.command(usage="Usage: onelayer diagnose --setting RATE,LAMBDA FIGURE... [--setting ...]")
def diagnose(*words: Annotated[str, Parameter(name="FIGURE", allow_leading_hyphen=True)]) -> None:
    """Rank known mistakes by how well they explain the figures of your own code.

    For example

        onelayer diagnose --setting 0.001,0 --test 28.6 \\
                          --setting 0.001,0.1 --test 33.2

    A setting is learning rate and lambda, one of 0.1,0 0.001,0 0.001,0.1 0.001,1,
    and the figures after it belong to it:

        --test 28.6                 accuracy in percent; at most 1 is a fraction
        --test-loss 2.65            loss in nats, without the penalty
        --test-cost 2.65            cost in nats, with the penalty
        --test-epoch-1 15.3         after the first epoch, not the last one;
        --test-loss-epoch-1 4.04    so with loss and cost

    and the same with train and validation. They are compared with CIFAR-10's:
    data_batch_1 trains, data_batch_2 validates, test_batch tests, 40 epochs in
    batches of 100.

    Parameters
    ----------
    words
        --setting and the options above, as many as you have.
    """
    from onelayer.diagnosis import diagnose, parse
    from onelayer.screen import Screen

    Screen().diagnoses(diagnose(parse(words)))
