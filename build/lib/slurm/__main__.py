"""`python -m slurm`."""

import sys

from slurm.cli import main

sys.exit(main())
