"""Evidence that something became worse, which may be looked at as often as one likes.

**Bets** (Waudby-Smith & Ramdas, arXiv:2010.09686). An observation y is at most `top`; the null
hypothesis says that its mean is at least m. Betting a share λ < 1 / (top − m) against that turns
one unit into 1 + λ (m − y), on average at most one unit. All observations of a look get the same λ,
fixed beforehand. If they are independent given the past, the product over a look is fair as long as
the null holds *on average over them*: Π (1 + λ dᵢ) ≤ (1 + λ d̄)ⁿ for the means dᵢ of mᵢ − yᵢ. So
devices may differ in their means, and a look needs nobody's mean to be known, only the average. The
best λ is not known: the stake is spread over several.

**Changes** (Shin, Ramdas & Rinaldo, arXiv:2203.03532). A change may begin at any look, so one unit
is staked anew at each (Shiryaev and Roberts): M ← L (M + 1). M is an e-detector: before the change
its mean at any stopping time is at most the mean number of looks until then. Raising an alarm at
M ≥ 1/a therefore means at least 1/a looks until a false alarm, on average.

**Many streams** (Dandapanthula & Ramdas, arXiv:2501.04130). At each look, and with the values of
that look, not their running maxima, e-BH chooses the k largest of K that all reach K / (a k). The
share of false ones among the alarms, per look that one waited for them, is then at most a, however
the streams depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHARES = np.array([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]) * 0.9  # of the largest bet that cannot lose all


def log_factors(gaps: Floats, reach: Floats, weights: Floats) -> Floats:
    """What a look multiplies a unit by, as a logarithm for each of SHARES: f64 [bets].

    gaps: m − y, positive where it was worse; reach: top − m > 0; weights: 0 to 1; all f64 [n].
    The null hypothesis is then about the weighted mean.
    """
    if not len(gaps):
        return np.zeros(len(SHARES))
    if np.any(gaps < -reach - 1e-9) or np.any(reach <= 0):
        raise ValueError("an observation lies above its bound")
    largest = float(np.max(weights * reach))
    if largest <= 0:
        return np.zeros(len(SHARES))
    bets = SHARES[:, None] / largest * (weights * gaps)[None, :]
    found: Floats = np.log1p(bets).sum(axis=1)
    return found


@dataclass(frozen=True, slots=True)
class EDetector:
    """The state of M for one stream, and of the likeliest beginning of a change."""

    log_stake: tuple[float, ...] = (0.0,) * len(SHARES)  # log(1 + M), of each bet
    log_best: tuple[float, ...] = (0.0,) * len(SHARES)  # of the best single beginning
    begun: tuple[int, ...] = (0,) * len(SHARES)  # look of that beginning

    def after(self, factors: Floats, look: int) -> EDetector:
        """After a look with these `log_factors`."""
        log_m = np.asarray(self.log_stake) + factors
        best = np.asarray(self.log_best)
        begun = np.where(best > 0, self.begun, look)  # a product below one starts again
        best = np.maximum(best, 0) + factors
        return EDetector(
            tuple(np.logaddexp(0, log_m).tolist()), tuple(best.tolist()), tuple(begun.tolist())
        )

    @property
    def log_evidence(self) -> float:
        """log M, where M is the average over the bets; -inf before the first look."""
        m = np.asarray(self.log_stake)
        with np.errstate(divide="ignore"):
            logs = m + np.log(-np.expm1(-m))
        return log_mean(logs)

    @property
    def change(self) -> int:
        """The look at which a change most likely began, if there was one."""
        return self.begun[int(np.argmax(self.log_best))]


def log_mean(logs: Floats) -> float:
    """log of the mean of exp(logs)."""
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))


def e_bh(log_evidence: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The streams whose null is rejected, with the evidence (log) that sufficed: {name: threshold}.

    Wang & Ramdas, arXiv:2009.02824.
    """
    ranked = sorted(log_evidence, key=lambda name: -log_evidence[name])
    for k in range(len(ranked), 0, -1):
        threshold = math.log(len(ranked) / (alpha * k))
        if log_evidence[ranked[k - 1]] >= threshold:
            return dict.fromkeys(ranked[:k], threshold)
    return {}
