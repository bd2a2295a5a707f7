"""`python -m analysis_scripts` is `dsdsh`."""

import sys

from analysis_scripts.main import main

if __name__ == "__main__":
    sys.exit(main())
