"""The command-line flags that choose a face detector."""

from __future__ import annotations

import argparse
from pathlib import Path

from preprocessing.faces.detectors import DETECTORS


def add_detector_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds `--detector`, `--yunet` and `--s3fd`, matching the arguments of `load_detector`."""
    parser.add_argument("--detector", choices=DETECTORS, default="auto", help="face detector (default: auto)")
    parser.add_argument("--yunet", type=Path, metavar="FILE", help="YuNet's model file (.onnx)")
    parser.add_argument(
        "--s3fd", type=Path, metavar="FILE", help="face-alignment's S3FD weights (.pth), for --detector sfd"
    )
