"""The spoke that will collect uncertain utterances, retrain, gate and roll out new bundles.

Built so far: `release`, the signed repository that devices take their models from.  Training and
calibration will be started as processes and never imported.
"""
