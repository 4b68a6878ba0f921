"""FID's Inception network: layers, differences from the paper, and loading of weights files."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluation.metrics.inception import FEATURES, Inception, InceptionE, InceptionEncoder, avg_pool, max_pool

# Keys and shapes of pt_inception-2015-12-05-6726825d.pth that fix the architecture.
SHAPES = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "Conv2d_4a_3x3.bn.running_var": (192,),
    "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1), "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3), "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6b.branch7x7_3.conv.weight": (192, 128, 7, 1), "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
    "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7), "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch3x3_2b.conv.weight": (384, 384, 3, 1), "Mixed_7c.branch3x3dbl_3a.conv.weight": (384, 384, 1, 3),
    "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def published():
    """A state dict like the published one: with the classifier, without batch norm counters."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Inception().state_dict().items() if "num_batches" not in key}
    weights = {key: torch.ones(shape) if "var" in key else torch.zeros(shape) for key, shape in shapes.items()}
    for key, shape in shapes.items():
        if len(shape) == 4:
            weights[key] = torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        elif key.endswith("bn.weight"):
            weights[key] = torch.ones(shape)
    return weights | {"fc.weight": torch.zeros(1008, FEATURES), "fc.bias": torch.zeros(1008)}


@pytest.fixture(scope="module")
def encoder(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "pt_inception.pth"
    torch.save(published, path)
    return InceptionEncoder.load(path)


def test_keys_shapes_and_number_of_weights_are_the_published_ones():
    with torch.device("meta"):
        network = Inception()
    state = network.state_dict()
    assert {key: tuple(state[key].shape) for key in SHAPES} == SHAPES
    assert sum("num_batches" not in key for key in state) == 5 * 94  # 94 convolutions, each with its batch norm
    assert sum(weight.numel() for weight in network.parameters()) == 21_785_568  # torchvision's, less its classifiers


def test_averages_leave_the_padding_out():
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(avg_pool(ones), ones)
    corner = torch.zeros(1, 1, 3, 3)
    corner[0, 0, 0, 0] = 36
    assert avg_pool(corner)[0, 0].tolist() == [[9, 6, 0], [6, 4, 0], [0, 0, 0]]


def test_the_last_block_pools_the_largest():
    assert InceptionE(8, last=True).pool is max_pool
    assert InceptionE(8).pool is avg_pool
    spot = torch.zeros(1, 1, 4, 4)
    spot[0, 0, 0, 0] = 5
    assert max_pool(spot)[0, 0, :2, :2].tolist() == [[5, 5], [5, 5]]
    assert max_pool(spot).sum() == 20


def test_pictures_are_taken_as_rgb_at_299_from_minus_one_to_one(encoder):
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 40, 3), np.uint8)
    seen = []
    with encoder.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        features = encoder.features(picture)
    rgb = torch.from_numpy(picture[..., ::-1].copy()).permute(0, 3, 1, 2) / 127.5 - 1
    expected = F.interpolate(rgb, (299, 299), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=0)
    assert features.shape == (1, FEATURES)
    assert features.dtype == np.float32
    assert features.min() >= 0  # means of rectified values
    assert features.std() > 0


def refusal(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights\.pth") as caught:
        InceptionEncoder.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_weights_are_named(tmp_path):
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Inception().state_dict().items()}
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    missing, other = "Mixed_5b.branch1x1.conv.weight", "Mixed_7c.branch1x1.bn.bias"
    del state[missing]
    message = refusal(tmp_path, state | {other: torch.zeros(3), "layer4.weight": torch.zeros(3)})
    assert f"1 missing ({missing})" in message
    assert f"1 of the wrong shape ({other} is (3,), not (320,))" in message
    assert "1 unexpected (layer4.weight)" in message
    assert "not a checkpoint dictionary" in refusal(tmp_path, [1, 2])
