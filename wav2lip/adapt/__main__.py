"""`python -m wav2lip.adapt`: see `wav2lip.adapt.command`."""

import sys

from wav2lip.adapt.command import main

if __name__ == "__main__":
    sys.exit(main())
