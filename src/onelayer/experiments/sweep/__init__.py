"""Many runs over settings and seeds. Validation chooses; the test rows are read for the chosen setting only.

A run is trained on one thread, so its numbers do not depend on how many runs are trained at the same time.
"""

from onelayer.experiments.sweep.directory import Sweep as Sweep
from onelayer.experiments.sweep.directory import results as results
from onelayer.experiments.sweep.directory import select_of as select_of
from onelayer.experiments.sweep.edges import edge_notes as edge_notes
from onelayer.experiments.sweep.edges import notes_on_choice as notes_on_choice
from onelayer.experiments.sweep.parts import claim_to_collect as claim_to_collect
from onelayer.experiments.sweep.parts import part_of as part_of
from onelayer.experiments.sweep.parts import require_trained as require_trained
from onelayer.experiments.sweep.parts import train_part as train_part
from onelayer.experiments.sweep.plan import Select as Select
from onelayer.experiments.sweep.plan import SweepPlan as SweepPlan
from onelayer.experiments.sweep.plan import draws as draws
from onelayer.experiments.sweep.plan import grid as grid
from onelayer.experiments.sweep.refitting import refit as refit
from onelayer.experiments.sweep.results import SettingResult as SettingResult
from onelayer.experiments.sweep.results import choose as choose
from onelayer.experiments.sweep.results import mean_sd as mean_sd
from onelayer.experiments.sweep.results import student_t as student_t
from onelayer.experiments.sweep.running import run_sweep as run_sweep
from onelayer.experiments.sweep.search import Progress as Progress
from onelayer.experiments.sweep.search import Search as Search
from onelayer.experiments.sweep.search import draw_runs as draw_runs
from onelayer.experiments.sweep.search import search as search
from onelayer.experiments.sweep.stacks import require_stackable as require_stackable
