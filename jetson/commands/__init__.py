"""The verbs that this spoke adds to `vitconformer`."""
