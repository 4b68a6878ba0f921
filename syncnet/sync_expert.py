"""An expert ready for use: its network, the part of the face it looks at, and how whole clips are embedded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from preprocessing.dataset.clips import Clip
from preprocessing.dataset.windows import CropRegion, face_window, mel_windows
from preprocessing.errors import UsageError
from preprocessing.media.audio import AudioConfig
from syncnet.data import MOUTH, WINDOW, mouth_windows
from syncnet.model import SmallSyncNet
from training.checkpoint import Checkpoint

KIND = "small-syncnet"
WEIGHTS = Path(__file__).parent / "weights"
EXPERT, JUDGE = WEIGHTS / "syncnet.safetensors", WEIGHTS / "judge.safetensors"
BLOCK = 128  # windows that are embedded at once
STEP = 32  # to whose multiples a batch is filled up
MIN_HEARD = 5  # windows with speech below which silence has to do
HEARD_SHARE = 0.25  # of a window's columns


@dataclass
class SyncExpert:
    """A trained expert.

    Attributes:
        network: in eval mode.
        region: the square of a points crop that it sees; its size is the network's input.
        step: training steps done.
    """

    network: SmallSyncNet
    region: CropRegion = MOUTH
    step: int = 0

    @classmethod
    def load(cls, path: Path = EXPERT, device: str = "cpu") -> SyncExpert:
        """Opens a checkpoint; EXPERT and JUDGE are those that come with the program.

        Raises:
            UsageError: it is no checkpoint of an expert, or one of another audio front-end or crop.
        """
        checkpoint = Checkpoint.load(path, KIND)
        AudioConfig().require(checkpoint.audio, str(path))
        if checkpoint.crop.get("kind") != "points":
            raise UsageError(f"{path} looks at crops of the kind {checkpoint.crop.get('kind')!r}, not 'points'")
        region = CropRegion(**checkpoint.crop["region"]) if "region" in checkpoint.crop else MOUTH
        network = SmallSyncNet(**{"norm": "group"} | checkpoint.config)  # which checkpoints before the choice had
        network.load_state_dict(checkpoint.weights)
        return cls(network.to(device).eval().requires_grad_(False), region, checkpoint.step)

    def save(self, path: Path, *, half: bool = False) -> None:
        """Writes a checkpoint that `load` opens; `half` stores 16-bit floats."""
        crop = {"kind": "points", "region": asdict(self.region)}
        weights = self.network.state_dict()
        Checkpoint(KIND, self.network.config, asdict(AudioConfig()), crop, weights, self.step).save(path, half=half)

    def look(self, crops: Tensor, shift: tuple[float, float] = (0, 0)) -> Tensor:
        """Cuts what the network sees out of whole points crops of any size; gradients pass through.

        Args:
            crops: (B, 3, 5, S, S), windows of five consecutive faces, BGR, 0 to 1.
            shift: pixels of a crop of 96 by which its square is moved right and down.

        Returns:
            (B, 15, s, s), s the region's size.
        """
        side = self.region.side
        corner = torch.tensor([self.region.left, self.region.top]) + torch.tensor(shift) / 96
        # In the coordinates of affine_grid the crop reaches from -1 to 1, and so does the square.
        square = torch.cat((side * torch.eye(2), (2 * corner + side - 1)[:, None]), dim=1)
        windows = crops.transpose(1, 2).flatten(1, 2)
        shape = (len(windows), 1, self.region.size, self.region.size)
        grid = F.affine_grid(square.expand(len(windows), -1, -1), list(shape), align_corners=False)
        return F.grid_sample(windows, grid.to(windows), padding_mode="border", align_corners=False)

    @torch.inference_mode()
    def embed_mouths(self, faces: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 BGR of consecutive frames of the region to (N - 4, D) unit embeddings of all windows."""
        if len(faces) < WINDOW:
            raise UsageError(f"a window is {WINDOW} frames long, and there are only {len(faces)}")
        blocks = []
        for first, count in _blocks(len(faces) - WINDOW + 1):
            windows = mouth_windows(faces[first : first + count + WINDOW - 1], np.arange(count))
            blocks.append(self._whole(self.network.embed_faces, windows))
        return np.concatenate(blocks)

    @torch.inference_mode()
    def embed_speech(self, mel: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The sounds of windows.

        Args:
            mel: (80, T).
            starts: (W,) first frames; beyond the sound there is silence.

        Returns:
            (W, D) unit embeddings.
        """
        blocks = []
        for first, count in _blocks(len(starts)):
            mels = mel_windows(mel, starts[first : first + count], Fraction(0))
            blocks.append(self._whole(self.network.embed_mel, mels))
        return np.concatenate(blocks)

    def embed(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """All windows of a clip of five frames or more: (W, D) embeddings of its pictures and of its sounds."""
        starts = np.arange(clip.frames - WINDOW + 1)
        blocks = [
            self.embed_mouths(face_window(clip, self.region, first, count + WINDOW - 1))
            for first, count in _blocks(len(starts))
        ]
        return np.concatenate(blocks), self.embed_speech(clip.mel, starts)

    def _whole(self, tower: Callable[[Tensor], Tensor], windows: np.ndarray) -> np.ndarray:
        """Embeds a batch that is filled up to a multiple of STEP: oneDNN keeps memory for each size it has met."""
        filled = np.pad(windows, [(0, -len(windows) % STEP)] + [(0, 0)] * (windows.ndim - 1))
        return tower(torch.from_numpy(filled).to(self._device)).cpu().numpy()[: len(windows)]

    @property
    def _device(self) -> torch.device:
        return self.network.log_scale.device


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """First and number of each block of windows."""
    for first in range(0, count, BLOCK):
        yield first, min(BLOCK, count - first)


def windows_with_speech(speech: np.ndarray, starts: np.ndarray, config: AudioConfig = AudioConfig()) -> np.ndarray:
    """Which windows count for sync: those with speech in a quarter of their sound or more.

    Silence fits any closed mouth and tells nothing; where fewer than five windows hold speech, all of them count.

    Args:
        speech: (T,) bool, one flag a mel column, see `preprocessing.media.audio.speech_columns`.
        starts: (W,) first frames.

    Returns:
        (W,) bool.
    """
    columns = np.array([int(config.columns_per_second * Fraction(int(start), 25)) for start in starts], int)
    spoken = np.concatenate(([0], np.cumsum(speech)))
    first, last = (np.clip(columns + shift, 0, len(speech)) for shift in (0, config.window_columns))
    windows = spoken[last] - spoken[first] >= HEARD_SHARE * config.window_columns
    return windows if windows.sum() >= MIN_HEARD else np.ones(len(starts), bool)
