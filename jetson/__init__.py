"""The spoke that will run the exported graph with TensorRT, behind the hub's `Backend` protocol.

Planned; nothing is built yet. The name is reserved so that the import rules between the spokes hold
from the first line on. The hub will find it through the entry-point group `vitconformer.backends`
and never import it.
"""
