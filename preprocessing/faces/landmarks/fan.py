"""FAN (Bulat and Tzimiropoulos, 2017) from face-alignment as a `LandmarkNetwork`: 68 points, then a fitted mesh.

Coarser than our own network: 64x64 heatmaps, no depth, and everything between the 68 points is a mean face's. Of its
two networks 3DFAN-4 is used, whose points are projections of points on the head, also where the jaw hides itself.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import nn

from preprocessing.errors import UsageError, display_path
from preprocessing.faces.landmarks.sparse_mesh import POINTS, fit_mesh
from preprocessing.faces.landmarks.tracker import face_box
from preprocessing.faces.landmarks.views import View
from preprocessing.faces.mesh import Landmarks, canonical_face
from training.safe_pickle import require_finite_weights

FILE = "3DFAN4-7835d9f11d.pth.tar"
URL = f"https://www.adrianbulat.com/downloads/python-fan/{FILE}"
SIDE = 256  # pixels of the network's input
REFERENCE = 200 / 195  # side of the crop by width plus height of a box, as in face-alignment
RAISE = 0.12  # of the box's height, by which the crop's center lies above the box's
CERTAIN = 0.5  # mean peak of the mouth's heatmaps from which a face is surely there; chosen, not measured
MOUTH = slice(48, 68)
CANONICAL_SIDE = 128  # units that the canonical face's square has


def find_fan(path: Path | str | None = None) -> Path:
    """Finds FAN's weights: the given file, else torch hub's cache, where face-alignment keeps them; never downloads.

    Raises:
        UsageError: there are none; says how to get them.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    file = Path(path) if path is not None else cached
    if file.is_file():
        return file
    if path is not None:
        raise UsageError(f"no FAN weights at {display_path(path)}: give the path of {FILE}")
    raise UsageError(
        f"the landmarks fan need {FILE}: download it from {URL} and pass it with --fan, or save it as "
        f"{display_path(cached)}"
    )


def load_fan(path: Path | None = None, device: str = "cpu") -> FanLandmarks:
    """Loads FAN from a file, or from torch hub's cache, onto a device; "auto": CUDA if there is one, else the CPU.

    Raises:
        UsageError: face-alignment is not installed, the file is missing or not FAN's, or there is no such device.
    """
    file = find_fan(path)
    try:
        from face_alignment.models import FAN  # slow to import (numba), so only where it is used
    except ImportError as error:
        raise UsageError(f"the landmarks fan need face-alignment: pip install face-alignment ({error})") from error
    network = FAN(4)
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError, KeyError) as error:
        raise UsageError(f"{display_path(file)} is not FAN's checkpoint: download {FILE} from {URL}") from error
    require_finite_weights(file, network.state_dict())
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device} is not available: use cpu")
    return FanLandmarks(network.to(device).eval().requires_grad_(False), device)


class FanLandmarks:
    """The `LandmarkNetwork` of a FAN: (1, 3, 256, 256) RGB 0 to 1 → heatmaps (1, 68, 64, 64), or a list of them."""

    def __init__(self, network: nn.Module, device: str = "cpu") -> None:
        self._network, self._device = network, torch.device(device)

    def __call__(self, frame: np.ndarray, near: np.ndarray | Landmarks) -> Landmarks:
        """The mesh fitted to the 68 points of the face at `near`; presence from the peaks of the mouth's heatmaps."""
        view = fan_view(face_box(near) if isinstance(near, Landmarks) else near)
        points, peaks = decode_heatmaps(self._heatmaps(view.crop(frame, SIDE)))
        presence = float(np.clip(peaks[MOUTH].mean() / CERTAIN, 0, 1))
        try:
            mesh = fit_mesh(view.to_frame(points, SIDE))
        except UsageError:  # no face: all points in one place
            mesh, presence = view.to_frame(canonical_face(), CANONICAL_SIDE), 0.0
        return Landmarks(mesh.astype(np.float32), presence)

    @torch.inference_mode()
    def _heatmaps(self, crop: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(np.ascontiguousarray(crop[..., ::-1])).to(self._device)
        heatmaps = self._network(image.permute(2, 0, 1)[None].float() / 255)
        last = heatmaps[-1] if isinstance(heatmaps, (list, tuple)) else heatmaps
        return last[0].float().cpu().numpy()


def fan_view(box: np.ndarray) -> View:
    """The crop that face-alignment cuts for a face box (4,), x1 y1 x2 y2."""
    corner, far = np.asarray(box[:2], np.float64), np.asarray(box[2:], np.float64)
    width, height = far - corner
    return View((corner + far) / 2 - [0, RAISE * height], REFERENCE * float(width + height))


def decode_heatmaps(heatmaps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps (68, H, H) → points (68, 2) in pixels of the 256-pixel crop, and the heatmaps' peaks (68,).

    A quarter of a cell from the highest cell towards its higher neighbor, as in FAN (Newell et al., 2016).
    """
    side = heatmaps.shape[-1]
    flat = heatmaps.reshape(POINTS, -1)
    y, x = np.divmod(flat.argmax(1), side)
    padded = np.pad(heatmaps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = np.arange(POINTS)
    slope = np.stack(
        [
            padded[rows, y + 1, x + 2] - padded[rows, y + 1, x],
            padded[rows, y + 2, x + 1] - padded[rows, y, x + 1],
        ],
        axis=1,
    )
    inside = (x > 0) & (x < side - 1) & (y > 0) & (y < side - 1)
    cells = np.stack([x, y], axis=1) + 0.5 + 0.25 * np.sign(slope) * inside[:, None]
    return cells * (SIDE / side) - 0.5, flat.max(1)
