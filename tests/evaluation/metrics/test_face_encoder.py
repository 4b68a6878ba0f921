"""The face encoder: shapes, training, bundled weights and behavior of its metrics."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluation.metrics.face_crops import SIDE, open_source
from evaluation.metrics.face_encoder import WEIGHTS, FaceEncoder, FaceNetwork, identity, identity_distance
from evaluation.metrics.frechet import Moments, moments_distance
from evaluation.metrics.train_face_encoder import (
    AUGMENTATION,
    FaceEncoderRecipe,
    augment,
    cosface_loss,
    load_faces,
    main,
    sample_batch,
    train,
    whitening_matrix,
)
from preprocessing.dataset.clips import open_clips
from preprocessing.faces.detectors import load_detector
from tests.material import photo, write_numbered_clip
from tests.processes import Command
from training.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def encoder():
    return FaceEncoder.load()


def swaying(count):
    """(count, SIDE, SIDE, 3): the astronaut's face, shifted by up to 3 pixels."""
    faces = []
    for k in range(count):
        shift = np.array([[0.9, 0, 3 * np.sin(k)], [0, 0.9, 2 * np.cos(k)]])
        faces.append(cv2.warpAffine(photo(), shift, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE))
    return np.stack(faces)


def strangers(count=3, side=144):
    """Images (n, side, side, 3) by person, each with stripes of a different width."""
    rng, ramp = np.random.default_rng(0), np.arange(side)
    people = []
    for k in range(count):
        stripes = np.where(ramp // (3 + 4 * k) % 2, 200, 60)[None, None, :, None]
        people.append(np.clip(stripes + rng.normal(0, 8, (4, side, side, 3)), 0, 255).astype(np.uint8))
    return people


def test_features_and_embeddings_have_their_shapes(encoder):
    faces = swaying(3)
    features, embeddings = encoder.features(faces), encoder.embed(faces)
    assert features.shape == (3, 96)
    assert embeddings.shape == (3, 128)
    assert features.dtype == embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_each_face_is_looked_at_alone(encoder):
    faces = swaying(35)  # more than a batch
    np.testing.assert_allclose(encoder.features(faces)[[0, 34]], encoder.features(faces[[0, 34]]), atol=1e-5)
    np.testing.assert_allclose(encoder.embed(faces)[[0, 34]], encoder.embed(faces[[0, 34]]), atol=1e-5)


def test_what_is_no_crop_is_refused(encoder):
    for wrong in (np.zeros((2, 96, 96, 3), np.uint8), np.zeros((SIDE, SIDE, 3), np.uint8), swaying(1)[:0]):
        with pytest.raises(ValueError, match="128, 128, 3"):
            encoder.features(wrong)


def test_the_shipped_file_is_small_and_says_what_it_is():
    assert WEIGHTS.stat().st_size <= 2_000_000
    checkpoint = Checkpoint.load(WEIGHTS, "face-encoder")
    assert checkpoint.crop == {"kind": "points", "size": SIDE}
    assert checkpoint.step > 0


def test_a_checkpoint_opens_again_and_another_crop_is_refused(tmp_path, encoder):
    path = tmp_path / "encoder.safetensors"
    encoder.save(path)
    np.testing.assert_array_equal(FaceEncoder.load(path).embed(swaying(2)), encoder.embed(swaying(2)))
    checkpoint = Checkpoint.load(path)
    checkpoint.crop["size"] = 96
    checkpoint.save(path)
    with pytest.raises(ValueError, match=r"encoder.safetensors was trained on crops .*96"):
        FaceEncoder.load(path)
    with pytest.raises(ValueError, match="does not exist"):
        FaceEncoder.load(tmp_path / "none.safetensors")


def test_distance_is_one_minus_the_cosine_with_the_mean():
    real = np.array([[1, 0], [0, 1]], np.float32)
    made = np.array([[0.6, 0.8], [1, 0], [-1, 0]], np.float32)
    half = np.sqrt(0.5)
    assert identity_distance(made, real) == pytest.approx(1 - (1.4 * half + half - half) / 3)
    assert identity_distance(real[:1], real[:1]) == pytest.approx(0, abs=1e-6)
    assert identity_distance(-real[:1], real[:1]) == pytest.approx(2)
    assert identity_distance(real, np.array([[1, 0], [-1, 0]], np.float32)) == 1  # a zero mean


def test_a_face_is_nearer_to_itself_than_to_another(encoder):
    faces = swaying(6)
    other = faces[:, :, :, ::-1]  # blue skin; a view with negative strides
    assert 0 <= identity(faces[::2], faces[1::2], encoder) < identity(other, faces, encoder)


@pytest.mark.parametrize("kind", ["blur", "jpeg"])
def test_the_frechet_distance_rises_as_pictures_get_worse(encoder, kind):
    def worse(face, level):
        if kind == "blur":
            return cv2.GaussianBlur(face, (0, 0), (0.7, 1.5, 3)[level])
        return cv2.imdecode(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, (50, 20, 6)[level]])[1], 1)

    real = swaying(30)
    moments = Moments.from_features(encoder.features(real))
    distances = [moments_distance(moments, moments)]
    for level in range(3):
        changed = np.stack([worse(face, level) for face in real])
        distances.append(moments_distance(Moments.from_features(encoder.features(changed)), moments))
    assert distances == sorted(distances)
    assert distances[1] > distances[0] + 1e-6


# Training ------------------------------------------------------------------------------------------------------------


def test_the_margin_is_taken_off_the_right_cosine():
    cosines, names = torch.tensor([[0.5, 0.1], [0.3, 0.9]]), torch.tensor([0, 1])
    expected = F.cross_entropy(10 * torch.tensor([[0.3, 0.1], [0.3, 0.7]]), names)
    assert cosface_loss(cosines, names, 10, 0.2).item() == pytest.approx(expected.item(), rel=1e-6)


def test_disguises_neither_blur_nor_compress_and_depend_on_the_seed():
    assert AUGMENTATION.blur == AUGMENTATION.jpeg == AUGMENTATION.noise == 0
    picture = strangers(1)[0][0]
    one, again, other = (augment(picture, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_a_step_is_drawn_from_seed_and_step_alone():
    people, recipe = strangers(), FaceEncoderRecipe(batch=5, seed=3)
    (faces, names), (same, _) = sample_batch(people, recipe, 7), sample_batch(people, recipe, 7)
    assert faces.shape == (5, 3, SIDE, SIDE)
    assert names.shape == (5,)
    assert torch.equal(faces, same)
    assert not torch.equal(faces, sample_batch(people, recipe, 8)[0])
    assert faces.min() >= 0
    assert faces.max() <= 1


def test_a_step_teaches_and_the_same_seed_teaches_the_same():
    people, recipe = strangers(2), FaceEncoderRecipe(steps=1, batch=2)
    one, same = train(people, recipe), train(people, recipe)
    torch.manual_seed(recipe.seed)
    fresh = FaceNetwork().state_dict()
    for key, weight in one.network.state_dict().items():
        assert torch.equal(weight, same.network.state_dict()[key])
    assert not torch.equal(fresh["edges.weight"], one.network.edges.weight)
    assert one.step == 1
    assert not one.network.training


def test_whitened_features_are_uncorrelated_and_faint_ones_stay_faint():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((500, 3)) * [10, 1, 0.001] @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    spread = np.linalg.eigvalsh(np.cov((mixed @ whitening_matrix(mixed)).T))
    np.testing.assert_allclose(spread[1:], 1, atol=0.05)
    assert spread[0] < 0.01


def test_people_are_learnt():
    people = strangers(2)
    encoder = train(people, FaceEncoderRecipe(steps=25, batch=8))
    striped = [encoder.embed(np.ascontiguousarray(each[:, 8:-8, 8:-8])) for each in people]
    assert identity_distance(striped[0][:2], striped[0][2:]) < identity_distance(striped[1], striped[0])
    assert identity_distance(striped[1], striped[0]) > 0.3


def test_pictures_of_a_person_are_spread_over_all_clips(tmp_path):
    for number, speaker in enumerate("aab"):
        greys = [np.full((96, 96, 3), 20 + 100 * number + 10 * k, np.uint8) for k in range(4)]
        write_numbered_clip(tmp_path / f"{number}.safetensors", np.stack(greys), speaker=speaker, margin=8)
    first, second = load_faces(open_clips(tmp_path), 3)
    assert first.shape == (3, 144, 144, 3)
    np.testing.assert_allclose(first.mean(axis=(1, 2, 3)), [20, 50, 150], atol=1)
    np.testing.assert_allclose(second.mean(axis=(1, 2, 3)), [220, 230, 250], atol=1)


def test_one_person_alone_is_refused_in_one_line(tmp_path, capsys):
    write_numbered_clip(tmp_path / "0.safetensors", np.stack([photo()[:96, :96]] * 3), speaker="a")
    assert main([str(tmp_path), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "at least two people" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path / "none" / "x.safetensors")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_the_command_trains_what_opens(tmp_path):
    for name in "ab":
        faces = np.stack([np.roll(photo()[:96, :96], 30 * (name == "b"), axis=0)] * 3)
        write_numbered_clip(tmp_path / f"{name}.safetensors", faces, speaker=name)
    out = tmp_path / "encoder.safetensors"
    words = [str(tmp_path), "--out", str(out), "--steps", "1", "--batch", "2"]
    command = Command("evaluation.metrics.train_face_encoder", words, tmp_path, tmp_path / "output")
    assert command.wait() == 0
    assert FaceEncoder.load(out).step == 1


def test_a_video_is_nearer_to_itself_than_to_videos_of_others(encoder, shared):
    """Held-out people. Two videos of one person often look like two people to the encoder, see its model card: it
    measures how far a generated face drifts from its own video."""
    detector = load_detector("yunet", yunet=shared / "weights/face_detection_yunet_2026may.onnx")
    names = ("obama__st_clip2", "hdtf_katiehill__wda", "hdtf_edmarkey__wda", "grid_m_b__sbia1a")
    videos = [open_source(shared / "data/val" / f"{name}.mp4", detector, seconds=1.6).faces for name in names]
    seen = [encoder.embed(faces) for faces in videos]
    halves = [(each[: len(each) // 2], each[len(each) // 2 :]) for each in seen]
    distances = np.array([[identity_distance(second, first) for first, _ in halves] for _, second in halves])
    assert distances.argmin(axis=1).tolist() == [0, 1, 2, 3]
