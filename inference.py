"""Command-line entry point: `python inference.py --face video.mp4 --audio speech.wav`."""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's matrices are small here: its threads would only wait

from inference.cli import main

if __name__ == "__main__":
    sys.exit(main())
