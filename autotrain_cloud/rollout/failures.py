"""Whether more updates fail than may.

The evidence is how much likelier the outcomes are under a higher rate than under the bound,
averaged over such rates. As long as the true rate is at or below the bound its mean is at most one
whenever one looks (a test martingale; Ville, 1939): it reaches 1/alpha with a probability of at
most alpha in the whole rollout, not at each look.
"""

from __future__ import annotations

import math

from autotrain_cloud.monitor.evidence import log_mean

TIMES = (1.5, 2, 3, 5, 10, 25)  # the bound


def log_evidence(succeeded: int, failed: int, bound: float) -> float:
    """That the rate of failures is above `bound`; natural logarithm."""
    rates = [min(times * bound, (1 + bound) / 2) for times in TIMES]
    return log_mean(
        [
            failed * math.log(rate / bound) + succeeded * math.log((1 - rate) / (1 - bound))
            for rate in rates
        ]
    )
