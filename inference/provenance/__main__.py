"""`python -m inference.provenance FILE`."""

import sys

from inference.provenance.command import main

if __name__ == "__main__":
    sys.exit(main())
