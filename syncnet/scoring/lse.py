"""LSE-D and LSE-C: syncnet_python's network and protocol, the field's standard sync metrics.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016); the scores are those of "A Lip Sync Expert Is
All You Need" (2020). The weights, `syncnet_v2.model`, are published by the authors and not included here.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor, nn

from preprocessing.dataset.segmentation import FRAME_SAMPLES
from preprocessing.errors import UsageError
from preprocessing.faces.face_track import FaceTrack
from syncnet.data import WINDOW
from syncnet.offset import REACH
from syncnet.scoring.mfcc import mfcc
from training.safe_pickle import read_pickle, to_float32, weight_mismatches

INPUT_SIZE = 224  # pixels
COLUMNS, STEP = 20, 4  # MFCC columns per window and from one window to the next: 100 columns, 25 windows a second
BATCH = 16  # windows per forward pass; each takes 16 MB
CROP_SCALE = 0.40  # syncnet_python's crop_scale: margin around the face box
PADDING_VALUE = 110  # gray level outside the frame
MEDIAN_FRAMES = 13


class PublishedSyncNet(nn.Module):
    """syncnet_python's network S with 1024 outputs, with its state-dict keys."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_block(nn.Conv2d(1, 64, 3, padding=1)), nn.MaxPool2d(1, 1),
            *_block(nn.Conv2d(64, 192, 3, padding=1)), nn.MaxPool2d(3, (1, 2)),
            *_block(nn.Conv2d(192, 384, 3, padding=1)), *_block(nn.Conv2d(384, 256, 3, padding=1)),
            *_block(nn.Conv2d(256, 256, 3, padding=1)), nn.MaxPool2d(3, 2),
            *_block(nn.Conv2d(256, 512, (5, 4))),
        )  # fmt: skip
        self.netcnnlip = nn.Sequential(
            *_block(nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2))), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_block(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *(layer for _ in range(3) for layer in _block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)), *_block(nn.Conv3d(256, 512, (1, 6, 6))),
        )  # fmt: skip
        self.netfcaud, self.netfclip = _head(), _head()

    def embed_faces(self, frames: Tensor) -> Tensor:
        """(B, 3, 5, 224, 224) BGR, 0 to 255, to (B, 1024), not normalized."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))

    def embed_mfcc(self, mfcc: Tensor) -> Tensor:
        """(B, 1, 13, 20) to (B, 1024), not normalized."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))


def _block(convolution: nn.Conv2d | nn.Conv3d) -> list[nn.Module]:
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    return [convolution, norm(convolution.out_channels), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def load_published(path: Path) -> PublishedSyncNet:
    """Loads `syncnet_v2.model`, in eval mode on the CPU.

    Raises:
        UsageError: the file is missing or damaged, or holds another network or anything but weights.
    """
    weights, _ = read_pickle(path)
    # Batch norm's counters are unused, and files of early PyTorch versions lack them.
    counters = {key: torch.tensor(0) for key in _counters() if key not in weights}
    if wrong := weight_mismatches(weights | counters, PublishedSyncNet):
        raise UsageError(f"{path} does not hold syncnet_python's network, syncnet_v2.model: {wrong}")
    network = PublishedSyncNet()
    network.load_state_dict(to_float32(weights | counters))
    return network.eval().requires_grad_(False)


def _counters() -> list[str]:
    with torch.device("meta"):
        return [key for key in PublishedSyncNet().state_dict() if key.endswith("num_batches_tracked")]


class PublishedScorer:
    """Scores a video with syncnet_python's protocol; see `syncnet.scoring.video_scoring.Scorer`.

    Each run of a face within a shot is one track of the protocol. Unlike run_pipeline.py, crops are not re-encoded,
    tracks of up to 100 frames and faces of up to 100 pixels are kept, and the boxes come from our detector.
    """

    def __init__(self, network: PublishedSyncNet) -> None:
        self.network = network

    def window_count(self, frames: int) -> int:
        """Number of windows; the protocol drops the last window of each track."""
        return frames - WINDOW

    def crop_params(self, track: FaceTrack) -> np.ndarray:
        """(N, 3): center x, y and half the side of the face box in each frame, median-filtered."""
        boxes = track.boxes.astype(np.float64)
        centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1) / 2
        # Zero padding, as in scipy.signal.medfilt; in a short track zeros would win the median.
        mode = "constant" if len(boxes) >= MEDIAN_FRAMES else "nearest"
        return median_filter(np.column_stack([centers, sides]), (MEDIAN_FRAMES, 1), mode=mode)

    def crop(self, frame: np.ndarray, params: np.ndarray) -> np.ndarray:
        """Crops the face with margins at the sides and below: (H, W, 3) uint8 to (224, 224, 3) uint8."""
        x, y, side = params
        margin = int(side * (1 + 2 * CROP_SCALE))
        padded = cv2.copyMakeBorder(
            frame, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(PADDING_VALUE,) * 3
        )
        rows = slice(int(y + margin - side), int(y + margin + side * (1 + 2 * CROP_SCALE)))
        columns = slice(int(x + margin - side * (1 + CROP_SCALE)), int(x + margin + side * (1 + CROP_SCALE)))
        return cv2.resize(padded[rows, columns], (INPUT_SIZE, INPUT_SIZE))

    @torch.inference_mode()
    def embed(self, faces: np.ndarray) -> np.ndarray:
        """(N, 224, 224, 3) uint8 to (N - 4, 1024) float32."""
        frames, count = torch.from_numpy(faces).permute(3, 0, 1, 2), len(faces) - WINDOW + 1
        blocks = []
        for first in range(0, count, BATCH):
            starts = range(first, min(first + BATCH, count))
            windows = torch.stack([frames[:, start : start + WINDOW] for start in starts])
            blocks.append(self.network.embed_faces(windows.float()).numpy())
        return np.concatenate(blocks)

    @torch.inference_mode()
    def compare(self, video: np.ndarray, start: int, run: tuple[int, int], samples: np.ndarray) -> np.ndarray:
        """Distances of windows to the audio around them; audio embeddings outside the track are zero vectors.

        Args:
            video: (V, 1024) embeddings of the windows from frame `start` on.
            run: first frame of the track and one past its last.
            samples: (n,) int16, the whole audio track.
        """
        first, last = run
        track = samples[first * FRAME_SAMPLES : last * FRAME_SAMPLES]
        around = np.zeros((len(video) + 2 * REACH, video.shape[1]), np.float32)
        begin = start - first - REACH  # the track's window that the first row belongs to
        low, high = max(begin, 0), min(begin + len(around), self.window_count(last - first))
        columns = mfcc(track, STEP * low, STEP * (high - 1) + COLUMNS).astype(np.float32)
        windows = np.stack([columns[None, :, STEP * k : STEP * k + COLUMNS] for k in range(high - low)])
        around[low - begin : high - begin] = self.network.embed_mfcc(torch.from_numpy(windows)).numpy()
        return lse_distances(video, around)

    def scored_windows(self, flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Selects all windows, including silent ones."""
        return np.ones(len(starts), bool)


def lse_distances(video: np.ndarray, around: np.ndarray, reach: int = REACH) -> np.ndarray:
    """Distances |v_i - a_(i+k) + 1e-6| of each video window to the audio windows around it.

    Args:
        video: (V, D) embeddings of consecutive windows.
        around: (V + 2 * reach, D) audio embeddings, starting `reach` windows earlier.

    Returns:
        (V, 2 * reach + 1) float32; column reach + k holds the shift by k.
    """
    shifts = range(2 * reach + 1)
    columns = [np.linalg.norm(video - around[k : k + len(video)] + np.float32(1e-6), axis=1) for k in shifts]
    return np.stack(columns, axis=1)
