"""Probes: what a classifier makes of the features of a network that is not trained any more.

The validation rows choose a setting, the test rows are read once, for what was chosen.
"""

from onelayer.experiments.probe.encoded import NORMALIZED as NORMALIZED
from onelayer.experiments.probe.encoded import Normalize as Normalize
from onelayer.experiments.probe.encoded import load_features as load_features
from onelayer.experiments.probe.probing import RECIPES as RECIPES
from onelayer.experiments.probe.probing import Probe as Probe
from onelayer.experiments.probe.probing import RecipeName as RecipeName
from onelayer.experiments.probe.probing import compare_probes as compare_probes
from onelayer.experiments.probe.probing import csv_of_probes as csv_of_probes
from onelayer.experiments.probe.probing import notes_on_probes as notes_on_probes
from onelayer.experiments.probe.probing import probe as probe
from onelayer.experiments.probe.probing import probe_few as probe_few
from onelayer.experiments.probe.probing import require_device as require_device
from onelayer.experiments.probe.probing import require_processes as require_processes
from onelayer.experiments.probe.probing import require_same_rows as require_same_rows
from onelayer.experiments.probe.saving import save as save
