"""`python -m evaluation.judge`: see `evaluation.judge.command`."""

import sys

from evaluation.judge.command import main

if __name__ == "__main__":
    sys.exit(main())
