"""A trained sync expert: its network, the face region it sees, and embedding of whole clips."""

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
BLOCK = 128  # windows per forward pass
BATCH_MULTIPLE = 32  # batches are padded to a multiple of this
MIN_SPEECH_WINDOWS = 5  # with fewer windows with speech, all windows count
MIN_SPEECH_FRACTION = 0.25  # of a window's mel columns


@dataclass
class SyncExpert:
    """A trained sync expert.

    Attributes:
        network: in eval mode.
        region: the square of a points crop that the network sees; its size is the input size.
        step: number of training steps.
    """

    network: SmallSyncNet
    region: CropRegion = MOUTH
    step: int = 0

    @classmethod
    def load(cls, path: Path = EXPERT, device: str = "cpu") -> SyncExpert:
        """Loads a checkpoint; EXPERT and JUDGE are the included ones.

        Raises:
            UsageError: the file is not a sync expert, or has a different audio front-end or kind of crop.
        """
        checkpoint = Checkpoint.load(path, KIND)
        AudioConfig().require(checkpoint.audio, str(path))
        if checkpoint.crop.get("kind") != "points":
            raise UsageError(f"{path} needs crops of the kind {checkpoint.crop.get('kind')!r}, not 'points'")
        region = CropRegion(**checkpoint.crop["region"]) if "region" in checkpoint.crop else MOUTH
        network = SmallSyncNet(**{"norm": "group"} | checkpoint.config)  # older checkpoints do not store the norm
        network.load_state_dict(checkpoint.weights)
        return cls(network.to(device).eval().requires_grad_(False), region, checkpoint.step)

    def save(self, path: Path, *, half: bool = False) -> None:
        """Writes a checkpoint for `load`; `half` stores 16-bit floats."""
        crop = {"kind": "points", "region": asdict(self.region)}
        weights = self.network.state_dict()
        Checkpoint(KIND, self.network.config, asdict(AudioConfig()), crop, weights, self.step).save(path, half=half)

    def crop_input(self, crops: Tensor, shift: tuple[float, float] = (0, 0)) -> Tensor:
        """Crops the network's region from points crops of any size, differentiably.

        Args:
            crops: (B, 3, 5, S, S), windows of five consecutive faces, BGR, 0 to 1.
            shift: offset of the region, right and down, in pixels of a 96-pixel crop.

        Returns:
            (B, 15, s, s), with s the region's size.
        """
        side = self.region.side
        corner = torch.tensor([self.region.left, self.region.top]) + torch.tensor(shift) / 96
        # affine_grid spans -1 to 1 in both the crop and the region.
        square = torch.cat((side * torch.eye(2), (2 * corner + side - 1)[:, None]), dim=1)
        windows = crops.transpose(1, 2).flatten(1, 2)
        shape = (len(windows), 1, self.region.size, self.region.size)
        grid = F.affine_grid(square.expand(len(windows), -1, -1), list(shape), align_corners=False)
        return F.grid_sample(windows, grid.to(windows), padding_mode="border", align_corners=False)

    @torch.inference_mode()
    def embed_mouths(self, faces: np.ndarray) -> np.ndarray:
        """Embeds all windows of consecutive region crops: (N, S, S, 3) uint8 BGR to (N - 4, D), unit norm."""
        if len(faces) < WINDOW:
            raise UsageError(f"a window needs {WINDOW} frames, but there are only {len(faces)}")
        blocks = []
        for first, count in _blocks(len(faces) - WINDOW + 1):
            windows = mouth_windows(faces[first : first + count + WINDOW - 1], np.arange(count))
            blocks.append(self._embed_padded(self.network.embed_faces, windows))
        return np.concatenate(blocks)

    @torch.inference_mode()
    def embed_speech(self, mel: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Embeds the audio of windows.

        Args:
            mel: (80, T).
            starts: (W,) first frames; the mel is padded with silence.

        Returns:
            (W, D) unit embeddings.
        """
        blocks = []
        for first, count in _blocks(len(starts)):
            mels = mel_windows(mel, starts[first : first + count], Fraction(0))
            blocks.append(self._embed_padded(self.network.embed_mel, mels))
        return np.concatenate(blocks)

    def embed(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """Embeds all windows of a clip of at least five frames: (W, D) video and (W, D) audio embeddings."""
        starts = np.arange(clip.frames - WINDOW + 1)
        blocks = [
            self.embed_mouths(face_window(clip, self.region, first, count + WINDOW - 1))
            for first, count in _blocks(len(starts))
        ]
        return np.concatenate(blocks), self.embed_speech(clip.mel, starts)

    def _embed_padded(self, tower: Callable[[Tensor], Tensor], windows: np.ndarray) -> np.ndarray:
        """Embeds a batch padded to a multiple of BATCH_MULTIPLE: oneDNN caches memory for each batch size."""
        padded = np.pad(windows, [(0, -len(windows) % BATCH_MULTIPLE)] + [(0, 0)] * (windows.ndim - 1))
        return tower(torch.from_numpy(padded).to(self._device)).cpu().numpy()[: len(windows)]

    @property
    def _device(self) -> torch.device:
        return self.network.log_scale.device


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """Start and length of each block of windows."""
    for first in range(0, count, BLOCK):
        yield first, min(BLOCK, count - first)


def windows_with_speech(speech: np.ndarray, starts: np.ndarray, config: AudioConfig = AudioConfig()) -> np.ndarray:
    """Selects the windows with speech in at least a quarter of their audio.

    Silence matches any closed mouth and carries no sync information. If fewer than five windows have speech, all count.

    Args:
        speech: (T,) bool by mel column, see `preprocessing.media.speech_activity.speech_columns`.
        starts: (W,) first frames.

    Returns:
        (W,) bool.
    """
    columns = np.array([int(config.columns_per_second * Fraction(int(start), 25)) for start in starts], int)
    speech_count = np.concatenate(([0], np.cumsum(speech)))
    first, last = (np.clip(columns + shift, 0, len(speech)) for shift in (0, config.window_columns))
    windows = speech_count[last] - speech_count[first] >= MIN_SPEECH_FRACTION * config.window_columns
    return windows if windows.sum() >= MIN_SPEECH_WINDOWS else np.ones(len(starts), bool)
