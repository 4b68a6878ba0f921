"""`python -m inference.live`."""

import sys

from inference.live.command import main

if __name__ == "__main__":
    sys.exit(main())
