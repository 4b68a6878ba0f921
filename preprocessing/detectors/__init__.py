"""Face detectors, each a callable from frames to detections."""

from pathlib import Path

from preprocessing.faces import FaceDetector

DETECTORS = ("auto", "yunet", "sfd", "haar")


def load_detector(
    name: str = "auto", device: str = "cpu", *, yunet: Path | None = None, sfd: Path | None = None
) -> FaceDetector:
    """The detector of that name, ready; `yunet` and `sfd` name model files."""
    if name in ("auto", "yunet"):
        from preprocessing.detectors.yunet import YuNet, find_yunet

        return YuNet(find_yunet(yunet))
    raise ValueError(f"no detector {name!r}; there are {', '.join(DETECTORS)}")
