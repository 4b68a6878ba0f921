"""The autoencoder critic of EBGAN and BEGAN, which scores an image by its reconstruction error."""

from __future__ import annotations

from torch import Tensor, nn

from preprocessing.errors import UsageError
from wav2lip.gan.critics import SIZE, Critic, as_frames, layer_outputs


def _elu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, padding=1), nn.ELU())


class AutoencoderCritic(Critic):
    """A critic that outputs its reconstruction error as an energy: low means real.

    EBGAN (arXiv 1609.03126, section 2.3) with the network of BEGAN (arXiv 1703.10717): 3x3 convolutions and ELUs,
    `width` more channels after each downsampling, a small code and no skip connections from encoder to decoder.

    Args:
        size: side of the faces in pixels, a multiple of 8, at least 64; downsampled to 8 to 15 pixels or to an odd
            number.
        width: channels of the first layer.
        code: size of the code.
        error: "absolute" (BEGAN with eta = 1) or "squared" (EBGAN).
    """

    def __init__(self, size: int = SIZE, width: int = 32, code: int = 64, error: str = "absolute") -> None:
        super().__init__()
        if size < 64 or size % 8:
            raise UsageError(f"size must be a multiple of 8 and at least 64, not {size}")
        if error not in ("absolute", "squared"):
            raise UsageError(f"error must be one of absolute, squared, not {error!r}")
        self.size, self.error = size, error
        self.layers, channels, side = nn.ModuleList([nn.Sequential(_elu(3, width), _elu(width, width))]), width, size
        while side % 2 == 0 and side >= 16:
            downsample = _elu(channels, channels + width, stride=2)
            channels, side = channels + width, side // 2
            self.layers.append(nn.Sequential(downsample, _elu(channels, channels)))
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, code))
        steps: list[nn.Module] = [nn.Linear(code, width * side**2), nn.Unflatten(1, (width, side, side))]
        for _ in self.layers[1:]:
            steps += [_elu(width, width), _elu(width, width), nn.Upsample(scale_factor=2)]
        self.decode = nn.Sequential(*steps, _elu(width, width), nn.Conv2d(width, 3, 3, padding=1))

    def features(self, images: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """The encoder's layers; the last is the code, (N, code)."""
        if images.ndim not in (4, 5) or images.shape[1] != 3 or images.shape[-2:] != (self.size, self.size):
            expected = f"(N, 3, {self.size}, {self.size}) or (B, 3, T, {self.size}, {self.size})"
            raise UsageError(f"the autoencoder critic takes faces of shape {expected}, not {tuple(images.shape)}")
        features = layer_outputs(self.layers, as_frames(images))
        return [*features, self.encode(features[-1])]

    def reconstruct(self, images: Tensor) -> Tensor:
        """Reconstructs faces: (N, 3, S, S) or time-major (T * B, 3, S, S), not clamped to 0 to 1."""
        return self.decode(self.features(images)[-1])

    def logits_and_features(self, images: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The energy of each frame; not conditional.

        Args:
            images: (N, 3, S, S) or (B, 3, T, S, S), BGR, 0 to 1.
            condition: ignored.

        Returns:
            Mean error over the image, (N, 1) or time-major (T * B, 1), 0 or more: low means real. The outputs of
            `features`.
        """
        features = self.features(images)
        error = self.decode(features[-1]) - as_frames(images)
        error = error.abs() if self.error == "absolute" else error.square()
        return error.flatten(1).mean(1, keepdim=True), features
