"""`python -m dataprep`."""

import sys

from dataprep.cli import main

if __name__ == "__main__":
    sys.exit(main())
