"""pytest plugin: scikit-learn's own tests, collected after this, meet fastem's classes under scikit-learn's names.

What may fail: private names that the tests use, and what fastem does otherwise on purpose.
"""

import pytest
import sklearn.cluster
import sklearn.decomposition
import sklearn.mixture

import fastem

sklearn.cluster.KMeans = fastem.KMeans
sklearn.mixture.GaussianMixture = fastem.GaussianMixture
sklearn.decomposition.FactorAnalysis = fastem.FactorAnalysis

PRIVATE = "uses a private name"
EXPECTED = {
    "test_kmeans_init_auto_with_initial_centroids": PRIVATE,  # _n_init
    "test_n_init_auto": PRIVATE,  # _n_init
    "test_sample_weight_init": PRIVATE,  # _init_centroids
    "test_sample_weight_zero": PRIVATE,  # _init_centroids
    "test_gaussian_mixture_precisions_init": PRIVATE,  # _set_parameters
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": PRIVATE,  # replaces a private function
    "test_check_weights": "its text calls the smallest weight the largest",
    "test_kmeans_verbose": "other words",
    "test_warning_elkan_1_cluster": "every algorithm does one cluster",
    "test_regularisation": "a singular covariance is made regular, with a warning, where scikit-learn raises",
}


def pytest_collection_modifyitems(items):
    """Mark what may fail."""
    for item in items:
        reason = EXPECTED.get(item.originalname)
        if reason:
            item.add_marker(pytest.mark.xfail(reason=reason))
