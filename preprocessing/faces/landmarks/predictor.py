"""Landmark predictor for the tracker: a frame and an approximate position → 206 mesh points."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.model import PARTS, LandmarkNet, network_config, to_pixels
from preprocessing.faces.landmarks.views import View, box_view, face_view, mouth_view
from preprocessing.faces.mesh import MESH_INDICES, HeadPose, Landmarks
from training.checkpoint import Checkpoint

KIND = "landmarks"
WEIGHTS = "weights/landmarks.safetensors"
PASSES = 3  # prediction passes from a detector box to an upright crop of the right size


class LandmarkNetwork(Protocol):
    """Predicts points from a frame, uint8 BGR (H, W, 3), and an approximate position: a box (4,) x1 y1 x2 y2 or the
    points of the previous frame."""

    def __call__(self, frame: np.ndarray, near: np.ndarray | Landmarks) -> Landmarks: ...


class MeshLandmarks:
    """Our `LandmarkNetwork`: predicts the whole face, then refines the lower face from a mouth crop."""

    def __init__(self, face: LandmarkNet, mouth: LandmarkNet | None = None) -> None:
        self.face = _fused(face)
        self.mouth = None if mouth is None else _fused(mouth)

    def __call__(self, frame: np.ndarray, near: np.ndarray | Landmarks) -> Landmarks:
        """The points of the face at `near`; presence tells whether a face with an unoccluded mouth is there."""
        if isinstance(near, Landmarks):
            return self.predict_view(frame, face_view(HeadPose.of(near.points)))
        view = box_view(near)
        for _ in range(PASSES - 1):
            view = face_view(HeadPose.of(self._points(self.face, frame, view)[0]))
        return self.predict_view(frame, view)

    def predict_view(self, frame: np.ndarray, view: View) -> Landmarks:
        """The points of the face in the view."""
        points, presence = self._points(self.face, frame, view)
        if self.mouth is not None:
            finer, seen = self._points(self.mouth, frame, mouth_view(HeadPose.of(points)))
            points[self.mouth.config.rows()] = finer
            presence = min(presence, seen)
        return Landmarks(points.astype(np.float32), presence)

    @torch.inference_mode()
    def _points(self, network: LandmarkNet, frame: np.ndarray, view: View) -> tuple[np.ndarray, float]:
        size = network.config.size
        crop = torch.from_numpy(view.crop(frame, size))[None].permute(0, 3, 1, 2).float() / 255
        points, logit = network(crop.contiguous(memory_format=torch.channels_last))
        return view.to_frame(to_pixels(points[0].double().numpy(), size), size), float(torch.sigmoid(logit[0]))


def load_landmarks(path: Path | None = None) -> MeshLandmarks:
    """Loads the network of a checkpoint, or the bundled one.

    Raises:
        UsageError: the file is missing, damaged, or a network of another kind or other points.
    """
    source = path or Path(str(files(__package__).joinpath(WEIGHTS)))
    saved = Checkpoint.load(source, KIND)
    if saved.config.get("mesh") != list(MESH_INDICES):
        raise UsageError(f"the landmark network {source} predicts a different set of points: use the bundled one")
    return MeshLandmarks(*(_restore(saved, part) for part in PARTS))


def _restore(saved: Checkpoint, part: str) -> LandmarkNet:
    network = LandmarkNet(network_config(saved.config[part]))
    start = f"{part}."
    weights = {name[len(start) :]: value for name, value in saved.weights.items() if name.startswith(start)}
    network.load_state_dict(weights)
    return network


def _fused(network: LandmarkNet) -> LandmarkNet:
    """An inference copy with batch norms folded into the preceding convolutions."""
    copy = LandmarkNet(network.config)
    copy.load_state_dict(network.state_dict())
    copy.eval().requires_grad_(False)
    for module in copy.modules():
        body = getattr(module, "body", None)
        if isinstance(body, nn.Sequential):
            first, second = _folded(body[0], body[1]), _folded(body[3], body[4])
            module.add_module("body", nn.Sequential(first, nn.ReLU(inplace=True), second))
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _folded(convolution: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return torch.nn.utils.fuse_conv_bn_eval(convolution, norm)
