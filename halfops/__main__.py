"""python -m halfops {doctor,demo,bench,memory}."""

import sys

from halfops.cli import main

sys.exit(main(sys.argv[1:]))
