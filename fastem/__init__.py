"""fastem: expectation-maximization on compiled kernels.

How data flows through a fit, file by file::

    input -> validate.py -> sources/ -> engine/problem.py -> starts/ -> engine/em.py --> engine/result.py -> estimators/
                                                                        |  per restart, per iteration:  ^
                                                                        |  source.accumulate: kernels   |
                                                                        |    of families/ over grid.py  |
                                                                        |  family.m_step, then          |
                                                                        |    engine/monitor.py ---------+

The rooms, from the top; none imports from one above it: ``cli``, ``plot``; ``many``; ``analysis``; ``estimators``;
``starts``, ``engine``; ``sources``; ``families``; ``kernels``; ``jit``.  What every room needs lies beside this file:
the door (``validate``), the grid and the records that are summed on it, draws, threads, files.

Public names are loaded when they are first used: ``import fastem`` imports neither scikit-learn nor Numba.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastem.registry import ESTIMATORS

__version__ = "0.1.0"

_HOME = {
    **{name: entry.module for name, entry in ESTIMATORS.items()},
    "AnomalyDetector": "fastem.analysis.anomaly",
    "IterationInfo": "fastem.engine.monitor",
    "GaussianQ": "fastem.analysis.bound",
    "LowerBound": "fastem.analysis.bound",
    "ManyFits": "fastem.many.result",
    "MonotonicityError": "fastem.engine.monitor",
    "build_info": "fastem.build",
    "fit_many": "fastem.many.fit",
    "k_means": "fastem.estimators.functions",
    "kmeans_plusplus": "fastem.estimators.functions",
    "load": "fastem.persist",
    "rows": "fastem.sources.opening",
    "save": "fastem.persist",
    "select": "fastem.analysis.selection",
    "warmup": "fastem.warming",
    "backend": "fastem.backend",
    "families": "fastem.families",
    "plot": "fastem.plot",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from fastem import backend as backend
    from fastem import families as families
    from fastem import plot as plot
    from fastem.analysis.anomaly import AnomalyDetector as AnomalyDetector
    from fastem.analysis.bound import GaussianQ as GaussianQ
    from fastem.analysis.bound import LowerBound as LowerBound
    from fastem.analysis.selection import select as select
    from fastem.build import build_info as build_info
    from fastem.engine.monitor import IterationInfo as IterationInfo
    from fastem.engine.monitor import MonotonicityError as MonotonicityError
    from fastem.estimators.bernoulli import BernoulliMixture as BernoulliMixture
    from fastem.estimators.bisecting import BisectingKMeans as BisectingKMeans
    from fastem.estimators.categorical import CategoricalMixture as CategoricalMixture
    from fastem.estimators.factor import FactorAnalysis as FactorAnalysis
    from fastem.estimators.factor_mixture import FactorAnalyserMixture as FactorAnalyserMixture
    from fastem.estimators.functions import k_means as k_means
    from fastem.estimators.functions import kmeans_plusplus as kmeans_plusplus
    from fastem.estimators.gaussian import GaussianMixture as GaussianMixture
    from fastem.estimators.generic import Mixture as Mixture
    from fastem.estimators.hierarchical import HierarchicalKMeans as HierarchicalKMeans
    from fastem.estimators.kmeans import KMeans as KMeans
    from fastem.estimators.minibatch import MiniBatchKMeans as MiniBatchKMeans
    from fastem.estimators.poisson import PoissonMixture as PoissonMixture
    from fastem.estimators.student import StudentTMixture as StudentTMixture
    from fastem.many.fit import fit_many as fit_many
    from fastem.many.result import ManyFits as ManyFits
    from fastem.persist import load as load
    from fastem.persist import save as save
    from fastem.sources.opening import rows as rows
    from fastem.warming import warmup as warmup


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastem' has no attribute {name!r}")
    module = importlib.import_module(_HOME[name])
    return module if _HOME[name] == f"fastem.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
