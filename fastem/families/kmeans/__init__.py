"""K-means as a family: hard assignment to the nearest centre (lecture row L1)."""

from fastem.families.kmeans.family import KMeansFamily
from fastem.families.kmeans.records import KMeansMemo, KMeansParams, KMeansPrepared, KMeansStats
from fastem.families.kmeans.spherical import SphericalKMeansFamily

__all__ = ["KMeansFamily", "KMeansMemo", "KMeansParams", "KMeansPrepared", "KMeansStats", "SphericalKMeansFamily"]
