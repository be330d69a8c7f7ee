"""Run the command line as ``python -m jaxflow``."""

import sys

from jaxflow.commands import main

if __name__ == "__main__":
    sys.exit(main())
