"""`python -m preprocessing.build`: see `preprocessing.build.command`."""

import sys

from preprocessing.build.command import main

if __name__ == "__main__":
    sys.exit(main())
