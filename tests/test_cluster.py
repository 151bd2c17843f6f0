"""The recipes for clusters: a search through scikit-learn's interface, whose fits other processes do."""

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from onelayer import SoftmaxClassifier


def test_a_worker_of_dask_finds_what_this_process_finds():
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    X, y = load_digits(return_X_y=True)
    grid = {"learning_rate": [0.1, 0.001]}
    search = GridSearchCV(SoftmaxClassifier(epochs=2, random_state=0), grid, cv=2, refit=False)
    alone = search.fit(X[:300], y[:300]).cv_results_["mean_test_score"].copy()
    assert np.ptp(alone) > 0.1, "the settings hardly differ: this would compare nothing"
    place = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(**place) as cluster, distributed.Client(cluster):
        with parallel_config(backend="dask"):
            found = search.fit(X[:300], y[:300]).cv_results_["mean_test_score"]
        assert cluster.scheduler.transition_counter, "the cluster did nothing"
    np.testing.assert_array_equal(found, alone)
