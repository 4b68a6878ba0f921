"""LSE-D and LSE-C: syncnet_python's network and protocol, by which the field compares its results.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016); the scores are those of "A Lip Sync Expert Is
All You Need" (2020). The weights, `syncnet_v2.model`, are published by the authors and not part of this program.
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
from syncnet.mfcc import mfcc
from syncnet.offset import REACH
from training.safe_pickle import read_pickle, to_float32, weight_mismatches

SIDE = 224  # pixels of the network's square
COLUMNS, STEP = 20, 4  # MFCC columns of a window, and from one window to the next: 100 columns a second, 25 windows
BATCH = 16  # windows that are embedded at once; one takes 16 MB
SPAN = 0.40  # syncnet_python's crop_scale: how much more than the face's box is seen
GREY = 110  # what lies outside of the picture
MEDIAN = 13  # frames


class PublishedSyncNet(nn.Module):
    """syncnet_python's network S with 1024 outputs, and its state dict's keys."""

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
        """(B, 3, 5, 224, 224) BGR, 0 to 255, to (B, 1024), not normalised."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))

    def embed_mfcc(self, mfcc: Tensor) -> Tensor:
        """(B, 1, 13, 20) to (B, 1024), not normalised."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))


def _block(convolution: nn.Conv2d | nn.Conv3d) -> list[nn.Module]:
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    return [convolution, norm(convolution.out_channels), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def load_published(path: Path) -> PublishedSyncNet:
    """The network of `syncnet_v2.model`, in eval mode on the CPU.

    Raises:
        UsageError: the file is missing, damaged, holds another network or more than plain weights.
    """
    weights, _ = read_pickle(path)
    # Batch norm's counters play no part here, and files of the oldest PyTorch have none.
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
    """Scores a video by syncnet_python's protocol; see `syncnet.video_scoring.Scorer`.

    Each run of a face within a shot is a track of the protocol. Unlike run_pipeline.py it does not encode the crops
    anew, and leaves out neither tracks of up to 100 frames nor faces of up to 100 pixels; the boxes are our detector's.
    """

    def __init__(self, network: PublishedSyncNet) -> None:
        self.network = network

    def windows(self, frames: int) -> int:
        """The protocol leaves out the last window of each track."""
        return frames - WINDOW

    def places(self, track: FaceTrack) -> np.ndarray:
        """Centre x, y and half a side of the face in each frame of a track, smoothed by medians: (N, 3)."""
        boxes = track.boxes.astype(np.float64)
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1) / 2
        # Beyond the ends the median sees zeros, as scipy.signal.medfilt does; of a short track it would see but them.
        mode = "constant" if len(boxes) >= MEDIAN else "nearest"
        return median_filter(np.column_stack([centres, sides]), (MEDIAN, 1), mode=mode)

    def cut(self, frame: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The face with room to its sides and below it: frame (H, W, 3) uint8 to (224, 224, 3) uint8."""
        x, y, side = place
        room = int(side * (1 + 2 * SPAN))
        wide = cv2.copyMakeBorder(frame, room, room, room, room, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY))
        rows = slice(int(y + room - side), int(y + room + side * (1 + 2 * SPAN)))
        columns = slice(int(x + room - side * (1 + SPAN)), int(x + room + side * (1 + SPAN)))
        return cv2.resize(wide[rows, columns], (SIDE, SIDE))

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
        """The distances of embedded windows to the sounds around them, of which those outside the track count as zero.

        Args:
            video: (V, 1024), windows from frame `start` on.
            run: first and one-past-last frame of the track.
            samples: (n,) int16, the whole sound.
        """
        first, last = run
        track = samples[first * FRAME_SAMPLES : last * FRAME_SAMPLES]
        around = np.zeros((len(video) + 2 * REACH, video.shape[1]), np.float32)
        begin = start - first - REACH  # the track's window to which the first row belongs
        low, high = max(begin, 0), min(begin + len(around), self.windows(last - first))
        columns = mfcc(track, STEP * low, STEP * (high - 1) + COLUMNS).astype(np.float32)
        windows = np.stack([columns[None, :, STEP * k : STEP * k + COLUMNS] for k in range(high - low)])
        around[low - begin : high - begin] = self.network.embed_mfcc(torch.from_numpy(windows)).numpy()
        return lse_distances(video, around)

    def counted(self, flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """All windows count, silent ones too."""
        return np.ones(len(starts), bool)


def lse_distances(video: np.ndarray, around: np.ndarray, reach: int = REACH) -> np.ndarray:
    """How far each picture is from the sounds around it, |v_i - a_(i+k) + 1e-6|.

    Args:
        video: (V, D) embeddings of consecutive windows.
        around: (V + 2 * reach, D) those of sounds, which begin `reach` windows earlier.

    Returns:
        (V, 2 * reach + 1) float32, column reach + k for a shift by k.
    """
    shifts = range(2 * reach + 1)
    columns = [np.linalg.norm(video - around[k : k + len(video)] + np.float32(1e-6), axis=1) for k in shifts]
    return np.stack(columns, axis=1)
