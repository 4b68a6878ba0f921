"""The critics: networks that say how real a picture looks.

One more, which judges by redrawing the picture, is in `wav2lip.gan.autoencoder`; what keeps critics from learning a small
data set by heart is in `wav2lip.gan.regularisation`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError
from syncnet.model import IntPair

SIZE = 96  # side of the faces that the released critic was trained on, in pixels
SLOPE = 0.01  # of the released critic's leaky ReLUs
STEEP = 0.2  # of the other critics' leaky ReLUs (DCGAN, arXiv 1511.06434)
NORMS = {"none": nn.Identity, "instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}


class Critic(nn.Module):
    """What every critic answers; each implements `inspect`."""

    def inspect(self, pictures: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits and features in one pass.

        Args:
            pictures: (N, 3, S, S) or (B, 3, T, S, S), BGR, 0 to 1.
            condition: what was known when they were made, the masked faces, in the pictures' shape. A critic that is
                not conditional does not look at it.

        Returns:
            Logits, any size, positive means real (but see `AutoencoderCritic`), without a sigmoid; and the hidden
            layers' outputs, shallow to deep, for feature matching (pix2pixHD, arXiv 1711.11585).
        """
        raise NotImplementedError

    def forward(self, pictures: Tensor, condition: Tensor | None = None) -> Tensor:
        """The logits of `inspect`."""
        return self.inspect(pictures, condition)[0]

    def features(self, pictures: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """The features of `inspect`."""
        return self.inspect(pictures, condition)[1]


def as_frames(pictures: Tensor) -> Tensor:
    """Pictures as they are, (N, 3, H, W), or windows (B, 3, T, H, W) laid out time-major, (T * B, 3, H, W).

    Time-major is the original's order: frame 0 of every item, then frame 1 of every item.
    """
    return pictures.permute(2, 0, 1, 3, 4).flatten(0, 1) if pictures.ndim == 5 else pictures


def with_condition(pictures: Tensor, condition: Tensor | None) -> Tensor:
    """Pictures (B, 3, ...) and their condition on top of each other, (B, 6, ...).

    Raises:
        UsageError: there is no condition, or it has another shape.
    """
    if condition is None or condition.shape != pictures.shape:
        given = "none" if condition is None else str(tuple(condition.shape))
        raise UsageError(f"a conditional critic needs a condition of shape {tuple(pictures.shape)}, not {given}")
    return torch.cat((pictures, condition), dim=1)


def layered(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The output of each of the layers, one fed by the other."""
    outputs = []
    for layer in layers:
        x = layer(x)
        outputs.append(x)
    return outputs


class CriticBlock(nn.Module):
    """Convolution and leaky ReLU without a norm; `conv_block` is part of the released keys."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: IntPair = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv_block = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H', W')."""
        return F.leaky_relu(self.conv_block(x), SLOPE)


def _halving(in_channels: int, out_channels: int, kernel_size: int, stride: IntPair = 2) -> nn.Sequential:
    rest = CriticBlock(out_channels, out_channels, kernel_size)
    return nn.Sequential(CriticBlock(in_channels, out_channels, kernel_size, stride), rest)


def lower_halves(faces: Tensor) -> Tensor:
    """The lower half of each face, (N, 3, 48, 96), of (N, 3, 96, 96) or (B, 3, T, 96, 96).

    Windows are laid out time-major (see `as_frames`).

    Raises:
        UsageError: the faces have another shape.
    """
    if faces.ndim not in (4, 5) or faces.shape[1] != 3 or faces.shape[-2:] != (SIZE, SIZE):
        expected = f"(N, 3, {SIZE}, {SIZE}) or (B, 3, T, {SIZE}, {SIZE})"
        raise UsageError(f"the critic takes faces of shape {expected}, not {tuple(faces.shape)}")
    return as_frames(faces)[:, :, SIZE // 2 :]


class VisualQualityCritic(Critic):
    """The released visual-quality discriminator's shape and state-dict keys (14,113,793 parameters).

    Source: "A Lip Sync Expert Is All You Need" (2020), section 3.3. It sees single frames and only their lower half.
    """

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder_blocks = nn.ModuleList(
            [
                nn.Sequential(CriticBlock(3, 32, 7)),
                _halving(32, 64, 5, stride=(1, 2)),  # the lower half is twice as wide as high
                _halving(64, 128, 5),
                _halving(128, 256, 5),
                _halving(256, 512, 3),
                _halving(512, 512, 3),
                nn.Sequential(CriticBlock(512, 512, 3, padding=0), CriticBlock(512, 512, 1)),
            ]
        )
        self.binary_pred = nn.Sequential(nn.Conv2d(512, 1, 1))

    def inspect(self, pictures: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """How real each frame looks; not conditional.

        Args:
            pictures: whole faces, BGR, 0 to 1: (N, 3, 96, 96) or (B, 3, T, 96, 96).
            condition: not looked at.

        Returns:
            Logits, (N, 1) or time-major (T * B, 1): positive means real. Their sigmoid is the original's output.
            Features of seven blocks.
        """
        features = layered(self.face_encoder_blocks, lower_halves(pictures))
        return torch.flatten(self.binary_pred(features[-1]), 1), features


class PatchCritic(Critic):
    """pix2pix's PatchGAN (arXiv 1611.07004, section 3.2.2): one logit for every patch of the picture.

    `depth` halvings give patches of 16, 34, 70 (the default), 142 or 286 pixels for a depth of 1 to 5. Sides are at
    least 3 * 2 ** depth pixels and need not be equal, so that it may be shown the masked rows or the mouth alone.

    Unlike pix2pix it has no batch norm unless asked for: a norm over the picture lets every logit depend on all of it,
    one over the batch lets pictures depend on each other, which gradient penalties rule out (arXiv 1704.00028,
    section 4), and either can hide a drift of colour.
    """

    def __init__(self, depth: int = 3, width: int = 64, conditional: bool = True, norm: str = "none") -> None:
        super().__init__()
        if depth < 1:
            raise UsageError(f"depth must be at least 1, not {depth}")
        if norm not in NORMS:
            raise UsageError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
        self.depth, self.conditional = depth, conditional
        widths = [6 if conditional else 3, *(width * min(2**level, 8) for level in range(depth + 1))]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 4, stride=2 if level < depth else 1, padding=1),
                NORMS[norm](after) if level else nn.Identity(),  # never on the first layer, as in the paper
                nn.LeakyReLU(STEEP),
            )
            for level, (before, after) in enumerate(pairwise(widths))
        )
        self.head = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def inspect(self, pictures: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """How real each patch looks.

        Args:
            pictures: (N, 3, H, W) or (B, 3, T, H, W), BGR, 0 to 1.
            condition: the masked faces, in the same shape.

        Returns:
            Logits, (N, 1, h, w) or time-major (T * B, 1, h, w) with h = H / 2 ** depth - 2. Features of depth + 1
            layers.
        """
        least = 3 * 2**self.depth
        if pictures.ndim not in (4, 5) or pictures.shape[1] != 3 or min(pictures.shape[-2:]) < least:
            expected = f"(N, 3, H, W) or (B, 3, T, H, W) with sides of at least {least}"
            raise UsageError(f"the patch critic takes pictures of shape {expected}, not {tuple(pictures.shape)}")
        shown = with_condition(pictures, condition) if self.conditional else pictures
        features = layered(self.layers, as_frames(shown))
        return self.head(features[-1]), features


class ClipCritic(Critic):
    """A critic of short clips by 3D convolutions, which sees flicker that no single frame shows.

    After the video discriminators of VGAN (arXiv 1609.02612) and MoCoGAN (arXiv 1707.04993), with temporal kernels of 3
    without padding instead of 4, as the clips are short: five frames become three, then one. Later layers are spatial.
    No batch norm, for `PatchCritic`'s reasons.
    """

    def __init__(self, frames: int = 5, depth: int = 4, width: int = 32, conditional: bool = False) -> None:
        super().__init__()
        if frames < 1 or depth < 1:
            raise UsageError(f"frames and depth must be at least 1, not {frames} and {depth}")
        self.frames, self.depth, self.conditional = frames, depth, conditional
        widths = [6 if conditional else 3, *(width * min(2**level, 8) for level in range(depth))]
        spans = [min(3, max(1, frames - 2 * level)) for level in range(depth + 1)]  # of the kernels, in frames
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv3d(before, after, (span, 4, 4), (1, 2, 2), (0, 1, 1)), nn.LeakyReLU(STEEP))
            for (before, after), span in zip(pairwise(widths), spans[:-1], strict=True)
        )
        self.head = nn.Conv3d(widths[-1], 1, (spans[-1], 3, 3), padding=(0, 1, 1))

    def inspect(self, pictures: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """How real each clip looks and moves.

        Args:
            pictures: (B, 3, T, H, W), BGR, 0 to 1; T is `frames`, sides are at least 2 ** depth.
            condition: the masked faces, in the same shape, where the critic is conditional.

        Returns:
            Logits, (B, 1, t, H / 2 ** depth, W / 2 ** depth) with t = max(1, T - 2 * (depth + 1)), 1 for the
            default's five frames. Features of `depth` layers.
        """
        least = 2**self.depth
        if pictures.ndim != 5 or pictures.shape[1:3] != (3, self.frames) or min(pictures.shape[-2:]) < least:
            expected = f"(B, 3, {self.frames}, H, W) with sides of at least {least}"
            raise UsageError(f"the clip critic takes pictures of shape {expected}, not {tuple(pictures.shape)}")
        features = layered(self.layers, with_condition(pictures, condition) if self.conditional else pictures)
        return self.head(features[-1]), features
