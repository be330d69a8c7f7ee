"""``python -m jaxflow``."""

import sys

from jaxflow.commands import main

sys.exit(main())
