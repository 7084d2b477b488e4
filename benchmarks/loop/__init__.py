"""The whole loop on one machine: a fleet drifts, the cloud notices, retrains, rolls out."""
