"""Face detectors, each a callable from frames to detections."""

from __future__ import annotations

import logging
from pathlib import Path

from preprocessing.errors import UsageError
from preprocessing.faces.face_track import FaceDetector

DETECTORS = ("auto", "yunet", "sfd", "haar")
_log = logging.getLogger(__name__)


def load_detector(
    name: str = "auto", device: str = "cpu", *, yunet: Path | None = None, sfd: Path | None = None
) -> FaceDetector:
    """The detector of that name, ready to be called.

    Args:
        name: auto, yunet, sfd or haar; auto is YuNet where its model is given, cached or can be fetched, else haar.
        device: where sfd runs, "cpu" or "cuda"; the others run on the CPU.
        yunet: YuNet's model file.
        sfd: S3FD's weights.

    Raises:
        UsageError: there is no such detector, or its file is absent or something else.
    """
    if name == "auto":
        return _load_auto(yunet)
    if name == "yunet":
        return _load_yunet(yunet)
    if name == "sfd":
        from preprocessing.faces.detectors.sfd import S3FD, find_sfd

        return S3FD(find_sfd(sfd), device)
    if name == "haar":
        return _load_haar()
    raise UsageError(f"no detector {name!r}: there are {', '.join(DETECTORS)}")


def _load_auto(model: Path | None) -> FaceDetector:
    if model is not None:
        return _load_yunet(model)
    try:
        return _load_yunet(None)
    except ValueError as error:
        _log.warning("taking OpenCV's cascade, which is weaker than YuNet: %s", error)
        return _load_haar()


def _load_yunet(model: Path | None) -> FaceDetector:
    from preprocessing.faces.detectors.yunet import YuNet, find_yunet

    return YuNet(find_yunet(model))


def _load_haar() -> FaceDetector:
    from preprocessing.faces.detectors.haar import Haar

    return Haar()
