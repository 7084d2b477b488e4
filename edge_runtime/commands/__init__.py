"""The verbs of this package, one module each; see `edge_runtime.cli`."""
