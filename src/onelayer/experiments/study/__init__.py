"""Studies: the four settings of the coursework beside the figures of its report, and its bonus exercises, over seeds.

A study directory holds

==========================  ======================================================================
``study.json``              the name, the seeds, and the findings: titles, sentences, tables
``batch/``, ``full/``       a sweep of each protocol, with the runs that the findings rest on
``grid/``                   a sweep from which validation chooses a setting
``probability_<loss>.png``  histogram of the true class's probability, for the first seed
==========================  ======================================================================

The settings outside the grid are fixed beforehand, so the test accuracy of each may be reported. In the grid,
validation chooses one setting, and the test rows are read for that setting only.
"""

from onelayer.experiments.study.findings import Finding as Finding
from onelayer.experiments.study.findings import judge as judge
from onelayer.experiments.study.findings import place as place
from onelayer.experiments.study.findings import prediction_interval as prediction_interval
from onelayer.experiments.study.questions import Effect as Effect
from onelayer.experiments.study.questions import Reported as Reported
from onelayer.experiments.study.questions import Setting as Setting
from onelayer.experiments.study.questions import Study as Study
from onelayer.experiments.study.running import FOLDERS as FOLDERS
from onelayer.experiments.study.running import read_study as read_study
from onelayer.experiments.study.running import run_study as run_study
from onelayer.experiments.study.studies import STUDIES as STUDIES
