"""python -m phiscale: the command line."""

import sys

from phiscale.cli import main

sys.exit(main())
