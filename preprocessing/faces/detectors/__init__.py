"""Face detectors, each a callable from frames to detections."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import FaceDetector

DETECTORS = ("auto", "center", "yunet", "sfd", "haar")
_log = logging.getLogger(__name__)


def load_detector(
    name: str = "auto", device: str = "cpu", *, yunet: Path | None = None, sfd: Path | None = None
) -> FaceDetector:
    """Loads a face detector by name.

    Args:
        name: auto, center, yunet, sfd or haar; auto uses YuNet if its model is given, cached or downloadable, else
            center, our own.
        device: where sfd runs, "cpu" or "cuda"; the others run on the CPU.
        yunet: YuNet's model file.
        sfd: S3FD's weights.

    Raises:
        UsageError: unknown detector, or its model file is missing or invalid.
    """
    if name == "auto":
        return _load_auto(yunet)
    if name == "yunet":
        return _load_yunet(yunet)
    if name == "sfd":
        from preprocessing.faces.detectors.sfd import S3FD, find_sfd

        return S3FD(find_sfd(sfd), device)
    if name == "center":
        return _load_center()
    if name == "haar":
        from preprocessing.faces.detectors.haar import Haar

        return Haar()
    raise UsageError(f"unknown detector {name!r}: choose one of {', '.join(DETECTORS)}")


def _load_auto(model: Path | None) -> FaceDetector:
    if model is not None:
        return _load_yunet(model)
    try:
        return _load_yunet(None)
    except ValueError as error:
        _log.debug("%s", error)
        _tell_fallback()
        return _load_center()


@lru_cache(maxsize=1)
def _tell_fallback() -> None:
    """Says once per process that the better detector is missing, and what to do."""
    _log.warning("YuNet's model is not here: faces are found by our own detector (give YuNet's file with --yunet)")


def _load_yunet(model: Path | None) -> FaceDetector:
    from preprocessing.faces.detectors.yunet import YuNet, find_yunet

    return YuNet(find_yunet(model))


def _load_center() -> FaceDetector:
    from preprocessing.faces.detectors.center.detector import CenterDetector

    return CenterDetector()
