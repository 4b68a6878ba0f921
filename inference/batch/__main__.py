"""`python -m inference.batch`: see `inference.batch.command`."""

import sys

from inference.batch.command import main

if __name__ == "__main__":
    sys.exit(main())
