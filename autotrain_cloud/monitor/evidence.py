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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHARES = tuple(
    0.9 * share for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
)  # of the largest bet that cannot lose all


def log_factors(
    gaps: Sequence[float], reach: Sequence[float], weights: Sequence[float]
) -> tuple[float, ...]:
    """What a look multiplies a unit by, as a logarithm for each of SHARES.

    gaps: m - y, positive where it was worse; reach: top - m > 0; weights: 0 to 1; one each per
    observation. The null hypothesis is then about the weighted mean.
    """
    stakes = [w * gap for w, gap in zip(weights, gaps, strict=True)]
    reaches = [w * far for w, far in zip(weights, reach, strict=True)]
    largest = max(reaches, default=0.0)
    if largest <= 0:
        return (0.0,) * len(SHARES)
    if any(stake < -far - 1e-9 for stake, far in zip(stakes, reaches, strict=True)):
        raise ValueError("an observation lies above its bound")
    return tuple(sum(math.log1p(share / largest * s) for s in stakes) for share in SHARES)


@dataclass(frozen=True, slots=True)
class EDetector:
    """The state of M for one stream, and of the likeliest beginning of a change."""

    log_stake: tuple[float, ...] = (0.0,) * len(SHARES)  # log(1 + M), of each bet
    log_best: tuple[float, ...] = (0.0,) * len(SHARES)  # of the best single beginning
    begun: tuple[int, ...] = (0,) * len(SHARES)  # look of that beginning

    def after(self, factors: Sequence[float], look: int) -> EDetector:
        """After a look with these `log_factors`."""
        stake, best, begun = [], [], []
        for i, factor in enumerate(factors):
            stake.append(_log1p_exp(self.log_stake[i] + factor))
            # A product below one begins again.
            begun.append(self.begun[i] if self.log_best[i] > 0 else look)
            best.append(max(self.log_best[i], 0.0) + factor)
        return EDetector(tuple(stake), tuple(best), tuple(begun))

    @property
    def log_evidence(self) -> float:
        """log M, where M is the average over the bets; -inf before the first look."""
        return log_mean([m + math.log(-math.expm1(-m)) if m else -math.inf for m in self.log_stake])

    @property
    def change(self) -> int:
        """The look at which a change most likely began, if there was one."""
        return self.begun[max(range(len(self.begun)), key=self.log_best.__getitem__)]


def log_mean(logs: Sequence[float]) -> float:
    """log of the mean of exp(logs)."""
    top = max(logs)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(log - top) for log in logs) / len(logs))


def _log1p_exp(x: float) -> float:
    """log(1 + exp(x)) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


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
