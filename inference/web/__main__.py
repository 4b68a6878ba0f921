"""`python -m inference.web`."""

import sys

from inference.web.command import main

if __name__ == "__main__":
    sys.exit(main())
