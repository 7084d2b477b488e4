"""The spoke that will collect uncertain utterances, retrain, gate and roll out new bundles.

Planned; nothing is built yet. The name is reserved so that the import rules between the spokes hold
from the first line on. It will start training and calibration as processes and never import them.
"""
