"""`python -m sampling`."""

import sys

from sampling.cli import main

if __name__ == "__main__":
    sys.exit(main())
