"""The spoke that will quantise: INT8 ranges, QDQ graphs, and a float-against-INT8 report.

Planned; nothing is built yet. The name is reserved so that the import rules between the spokes hold
from the first line on. It will read exported graphs with onnx and onnxruntime, and never import
torch.
"""
