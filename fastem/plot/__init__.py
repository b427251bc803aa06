"""Pictures of a fit, and the pictures of the lectures.

The functions draw on matplotlib `Axes` and return them; without `ax` they make a `Figure` of their own, which needs
neither pyplot nor a display (``plot.clusters(model, X).figure.savefig("fit.png")``).  Those that need several axes
return the `Figure`.  Matplotlib is an optional extra and is imported when the first picture is drawn.
"""

from fastem.plot.choosing import criteria, elbow
from fastem.plot.clusters import MAX_POINTS, clusters, objective, summary
from fastem.plot.density import density
from fastem.plot.lectures import cycles, jensen, lower_bound, posterior
from fastem.plot.style import COLOURS

__all__ = [
    "COLOURS",
    "MAX_POINTS",
    "clusters",
    "criteria",
    "cycles",
    "density",
    "elbow",
    "jensen",
    "lower_bound",
    "objective",
    "posterior",
    "summary",
]
