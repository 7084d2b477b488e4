"""`python -m jetson VERB`: the same command line as `vitconformer VERB`."""

import sys

from edge_runtime.cli import main

if __name__ == "__main__":
    sys.exit(main())
