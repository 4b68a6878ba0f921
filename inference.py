"""Command-line entry point: `python inference.py --face video.mp4 --audio speech.wav`."""

import sys

from inference.cli import main

if __name__ == "__main__":
    sys.exit(main())
