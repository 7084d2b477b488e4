"""Which kernels onnxruntime picks for a file on this machine.

Its INT8 patterns are delicate: a node in the wrong place, and a product silently runs in float,
with the right result at four times the cost.  So the choice is looked at, not assumed.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx

from calibration.observe import session_of
from edge_runtime.errors import BundleError

INT8_PRODUCTS = frozenset(
    ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "MatMulInteger", "QGemm")
)


def kernels(file: Path) -> Counter[str]:
    """Operators of the graph that onnxruntime really runs, by kind."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        session_of(file, optimized_model_filepath=str(optimised))
        return Counter(node.op_type for node in onnx.load(optimised).graph.node)


def check(file: Path, products: int) -> Counter[str]:
    """Raises BundleError unless at least `products` products run on INT8 kernels."""
    found = kernels(file)
    fast = sum(found[kind] for kind in INT8_PRODUCTS)
    if fast < products:
        raise BundleError(
            f"runs {products - fast} of {products} INT8 products in float",
            file=str(file),
            remedy="this version of onnxruntime does not know the pattern: keep the float model",
        )
    return found
