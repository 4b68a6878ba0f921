"""Landmark predictor for the tracker: a frame and an approximate position → 206 mesh points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from preprocessing.compiled_networks import Network, load_network
from preprocessing.errors import UsageError
from preprocessing.faces.landmarks.network_config import PARTS, NetworkConfig, network_config, to_pixels
from preprocessing.faces.landmarks.views import View, box_view, face_view, mouth_view
from preprocessing.faces.mesh import MESH_INDICES, HeadPose, Landmarks
from training.checkpoint_header import read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

KIND = "landmarks"
WEIGHTS = "weights/landmarks.safetensors"
PASSES = 3  # prediction passes from a detector box to an upright crop of the right size


class LandmarkNetwork(Protocol):
    """Predicts points from a frame, uint8 BGR (H, W, 3), and an approximate position: a box (4,) x1 y1 x2 y2 or the
    points of the previous frame."""

    def __call__(self, frame: np.ndarray, near: np.ndarray | Landmarks) -> Landmarks: ...


@dataclass(frozen=True)
class PartNetwork:
    """One of the two networks, compiled.

    Attributes:
        config: its architecture.
        run: (1, S, S, 3) uint8 BGR crop → (1, P, 3) points, -1 to 1 across it, and (1,) presence, 0 to 1.
    """

    config: NetworkConfig
    run: Network

    def points(self, frame: np.ndarray, view: View) -> tuple[np.ndarray, float]:
        """(P, 3) points in a frame, pixels, and presence, from the view's pixels."""
        size = self.config.size
        points, presence = self.run(view.crop(frame, size)[None])
        return view.to_frame(to_pixels(points[0].astype(np.float64), size), size), float(presence[0])


class MeshLandmarks:
    """Our `LandmarkNetwork`: predicts the whole face, then refines the lower face from a mouth crop."""

    def __init__(self, face: PartNetwork, mouth: PartNetwork | None = None) -> None:
        self.face, self.mouth = face, mouth
        self._mouth_rows = None if mouth is None else mouth.config.rows()

    def __call__(self, frame: np.ndarray, near: np.ndarray | Landmarks) -> Landmarks:
        """The points of the face at `near`; presence tells whether a face with an unoccluded mouth is there."""
        if isinstance(near, Landmarks):
            return self.predict_view(frame, face_view(near.pose))
        view = box_view(near)
        for _ in range(PASSES - 1):
            view = face_view(HeadPose.of(self.face.points(frame, view)[0]))
        return self.predict_view(frame, view)

    def predict_view(self, frame: np.ndarray, view: View) -> Landmarks:
        """The points of the face in the view."""
        points, presence = self.face.points(frame, view)
        if self.mouth is not None:
            finer, seen = self.mouth.points(frame, mouth_view(HeadPose.of(points)))
            points[self._mouth_rows] = finer
            presence = min(presence, seen)
        return Landmarks(points.astype(np.float32), presence)


def load_landmarks(path: Path | None = None) -> MeshLandmarks:
    """Loads the network of a checkpoint, or the bundled one.

    Raises:
        UsageError: the file is missing, damaged, or a network of another kind or other points.
    """
    source = path or Path(__file__).parent / WEIGHTS
    return MeshLandmarks(*(load_part(part, source) for part in PARTS))


def load_part(part: str, path: Path | None = None) -> PartNetwork:
    """Loads one of a checkpoint's two networks, "face" or "mouth"; see `load_landmarks`."""
    source = path or Path(__file__).parent / WEIGHTS
    config = read_header(source, KIND)["config"]
    if config.get("mesh") != list(MESH_INDICES):
        raise UsageError(f"the landmark network {source} predicts a different set of points: use the bundled one")
    network = network_config(config[part])
    sources = (source, Path(__file__).with_name("model.py"))
    shape = (1, network.size, network.size, 3)
    build = partial(part_module, source, network)
    return PartNetwork(network, load_network(f"landmarks-{part}", sources, build, [shape]))


def bundled_part(part: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The torch module of a bundled network, "face" or "mouth", and an example crop."""
    source = Path(__file__).parent / WEIGHTS
    return part_module(source, network_config(read_header(source, KIND)["config"][part]))


def part_module(source: Path, config: NetworkConfig) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The torch module of a part, for uint8 crops, and an example crop."""
    import torch

    from preprocessing.faces.landmarks.model import CropNetwork, LandmarkNet
    from training.checkpoint import Checkpoint

    network, start = LandmarkNet(config), f"{config.part}."
    weights = Checkpoint.load(source, KIND).weights
    network.load_state_dict({name[len(start) :]: value for name, value in weights.items() if name.startswith(start)})
    return CropNetwork(network).eval(), (torch.zeros(1, config.size, config.size, 3, dtype=torch.uint8),)
