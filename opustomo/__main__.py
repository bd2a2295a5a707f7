"""`python -m opustomo` is `dsd`."""

import sys

from opustomo.main import main

if __name__ == "__main__":
    sys.exit(main())
