"""Critics: networks that score how real an image looks.

The autoencoder critic is in `wav2lip.gan.autoencoder`; regularization against overfitting is in
`wav2lip.gan.regularization`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocessing.errors import UsageError
from syncnet.model import IntPair

SIZE = 96  # input size of the released critic in pixels
RELEASED_SLOPE = 0.01  # negative slope of the released critic's leaky ReLUs
LEAKY_SLOPE = 0.2  # of the other critics (DCGAN, arXiv 1511.06434)
NORMS = {"none": nn.Identity, "instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}


class Critic(nn.Module):
    """Base class of the critics; each implements `logits_and_features`."""

    def logits_and_features(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits and features in one pass.

        Args:
            images: (N, 3, S, S) or (B, 3, T, S, S), BGR, 0 to 1.
            condition: the masked faces that they were generated from, in the images' shape; ignored by unconditional
                critics.

        Returns:
            Logits of any shape, without a sigmoid, positive means real (but see `AutoencoderCritic`); and the hidden
            layers' outputs, shallow to deep, for feature matching (pix2pixHD, arXiv 1711.11585).
        """
        raise NotImplementedError

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """The logits of `logits_and_features`."""
        return self.logits_and_features(images, condition)[0]

    def features(self, images: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """The features of `logits_and_features`."""
        return self.logits_and_features(images, condition)[1]


def as_frames(images: Tensor) -> Tensor:
    """Returns images (N, 3, H, W) unchanged and flattens windows (B, 3, T, H, W) time-major to (T * B, 3, H, W).

    Time-major is the original's order: frame 0 of every item, then frame 1 of every item.
    """
    return images.permute(2, 0, 1, 3, 4).flatten(0, 1) if images.ndim == 5 else images


def with_condition(images: Tensor, condition: Tensor | None) -> Tensor:
    """Concatenates images (B, 3, ...) and their condition to (B, 6, ...).

    Raises:
        UsageError: the condition is missing or has a different shape.
    """
    if condition is None or condition.shape != images.shape:
        given = "none" if condition is None else str(tuple(condition.shape))
        raise UsageError(f"a conditional critic needs a condition of shape {tuple(images.shape)}, not {given}")
    return torch.cat((images, condition), dim=1)


def layer_outputs(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The outputs of all layers of a sequential network."""
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
        return F.leaky_relu(self.conv_block(x), RELEASED_SLOPE)


def _downsample(in_channels: int, out_channels: int, kernel_size: int, stride: IntPair = 2) -> nn.Sequential:
    rest = CriticBlock(out_channels, out_channels, kernel_size)
    return nn.Sequential(CriticBlock(in_channels, out_channels, kernel_size, stride), rest)


def lower_halves(faces: Tensor) -> Tensor:
    """The lower half of each face, (N, 3, 48, 96), of (N, 3, 96, 96) or (B, 3, T, 96, 96).

    Windows are flattened time-major (see `as_frames`).

    Raises:
        UsageError: the faces have a different shape.
    """
    if faces.ndim not in (4, 5) or faces.shape[1] != 3 or faces.shape[-2:] != (SIZE, SIZE):
        expected = f"(N, 3, {SIZE}, {SIZE}) or (B, 3, T, {SIZE}, {SIZE})"
        raise UsageError(f"the critic takes faces of shape {expected}, not {tuple(faces.shape)}")
    return as_frames(faces)[:, :, SIZE // 2 :]


class VisualQualityCritic(Critic):
    """The released visual-quality discriminator, with its state-dict keys (14,113,793 parameters).

    Source: "A Lip Sync Expert Is All You Need" (2020), section 3.3. It sees only the lower half of single frames.
    """

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder_blocks = nn.ModuleList(
            [
                nn.Sequential(CriticBlock(3, 32, 7)),
                _downsample(32, 64, 5, stride=(1, 2)),  # the lower half is twice as wide as it is high
                _downsample(64, 128, 5),
                _downsample(128, 256, 5),
                _downsample(256, 512, 3),
                _downsample(512, 512, 3),
                nn.Sequential(CriticBlock(512, 512, 3, padding=0), CriticBlock(512, 512, 1)),
            ]
        )
        self.binary_pred = nn.Sequential(nn.Conv2d(512, 1, 1))

    def logits_and_features(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Scores each frame; not conditional.

        Args:
            images: whole faces, BGR, 0 to 1: (N, 3, 96, 96) or (B, 3, T, 96, 96).
            condition: ignored.

        Returns:
            Logits, (N, 1) or time-major (T * B, 1): positive means real. Their sigmoid is the original's output.
            Features of seven blocks.
        """
        features = layer_outputs(self.face_encoder_blocks, lower_halves(images))
        return torch.flatten(self.binary_pred(features[-1]), 1), features


class PatchCritic(Critic):
    """pix2pix's PatchGAN (arXiv 1611.07004, section 3.2.2): one logit for every patch of the image.

    With `depth` downsampling layers, 1 to 5, the patches are 16, 34, 70 (the default), 142 or 286 pixels. Sides must be
    at least 3 * 2 ** depth pixels and need not be equal, so that the critic can be applied to the masked rows only.

    Unlike pix2pix it has no norm by default: instance norm makes every logit depend on the whole image, batch norm
    makes images depend on each other, which gradient penalties rule out (arXiv 1704.00028, section 4), and both can
    hide a color shift.
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
                nn.Conv2d(inputs, outputs, 4, stride=2 if level < depth else 1, padding=1),
                NORMS[norm](outputs) if level else nn.Identity(),  # never on the first layer, as in the paper
                nn.LeakyReLU(LEAKY_SLOPE),
            )
            for level, (inputs, outputs) in enumerate(pairwise(widths))
        )
        self.head = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def logits_and_features(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Scores each patch.

        Args:
            images: (N, 3, H, W) or (B, 3, T, H, W), BGR, 0 to 1.
            condition: the masked faces, in the same shape.

        Returns:
            Logits, (N, 1, h, w) or time-major (T * B, 1, h, w) with h = H / 2 ** depth - 2. Features of depth + 1
            layers.
        """
        least = 3 * 2**self.depth
        if images.ndim not in (4, 5) or images.shape[1] != 3 or min(images.shape[-2:]) < least:
            expected = f"(N, 3, H, W) or (B, 3, T, H, W) with sides of at least {least}"
            raise UsageError(f"the patch critic takes images of shape {expected}, not {tuple(images.shape)}")
        inputs = with_condition(images, condition) if self.conditional else images
        features = layer_outputs(self.layers, as_frames(inputs))
        return self.head(features[-1]), features


class ClipCritic(Critic):
    """A critic of short clips with 3D convolutions, which detects flicker that single frames do not show.

    After the video discriminators of VGAN (arXiv 1609.02612) and MoCoGAN (arXiv 1707.04993), with unpadded temporal
    kernels of 3 instead of 4, as the clips are short: five frames become three, then one. Later layers are spatial. No
    batch norm, for the same reasons as in `PatchCritic`.
    """

    def __init__(self, frames: int = 5, depth: int = 4, width: int = 32, conditional: bool = False) -> None:
        super().__init__()
        if frames < 1 or depth < 1:
            raise UsageError(f"frames and depth must be at least 1, not {frames} and {depth}")
        self.frames, self.depth, self.conditional = frames, depth, conditional
        widths = [6 if conditional else 3, *(width * min(2**level, 8) for level in range(depth))]
        spans = [min(3, max(1, frames - 2 * level)) for level in range(depth + 1)]  # of the kernels, in frames
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv3d(inputs, outputs, (span, 4, 4), (1, 2, 2), (0, 1, 1)), nn.LeakyReLU(LEAKY_SLOPE))
            for (inputs, outputs), span in zip(pairwise(widths), spans[:-1], strict=True)
        )
        self.head = nn.Conv3d(widths[-1], 1, (spans[-1], 3, 3), padding=(0, 1, 1))

    def logits_and_features(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Scores each clip.

        Args:
            images: (B, 3, T, H, W), BGR, 0 to 1; T is `frames`, sides are at least 2 ** depth.
            condition: the masked faces, in the same shape, if the critic is conditional.

        Returns:
            Logits, (B, 1, t, H / 2 ** depth, W / 2 ** depth) with t = max(1, T - 2 * (depth + 1)), 1 for the
            default's five frames. Features of `depth` layers.
        """
        least = 2**self.depth
        if images.ndim != 5 or images.shape[1:3] != (3, self.frames) or min(images.shape[-2:]) < least:
            expected = f"(B, 3, {self.frames}, H, W) with sides of at least {least}"
            raise UsageError(f"the clip critic takes images of shape {expected}, not {tuple(images.shape)}")
        features = layer_outputs(self.layers, with_condition(images, condition) if self.conditional else images)
        return self.head(features[-1]), features
