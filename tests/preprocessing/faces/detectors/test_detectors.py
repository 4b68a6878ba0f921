"""Tests shared by all detectors, then detector-specific ones."""

import hashlib
import io
import json
import logging
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from preprocessing.faces import detectors
from preprocessing.faces.detectors import load_detector, yunet
from preprocessing.faces.detectors.center.detector import CenterDetector
from preprocessing.faces.detectors.yunet import YuNet, find_yunet
from preprocessing.faces.face_track import FaceDetector

DARK = 40
REFUSED = urllib.error.URLError("no route to host")


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    size = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
    areas = [np.prod(b[2:] - b[:2]) for b in (one, other)]
    return float(np.prod(size) / (sum(areas) - np.prod(size)))


@dataclass
class Case:
    """A detector, an image (H, W, 3) that it detects as a face, and that face's box."""

    detector: FaceDetector
    picture: np.ndarray
    box: np.ndarray

    def scene(self, *slots: int, room: int = 2) -> np.ndarray:
        """A dark frame with slots side by side, and the image in the given slots."""
        height, width = self.picture.shape[:2]
        frame = np.full((height + 64, room * (width + 32) + 32, 3), DARK, np.uint8)
        for slot in slots:
            x = 32 + slot * (width + 32)
            frame[32 : 32 + height, x : x + width] = self.picture
        return frame

    def box_in(self, slot: int) -> np.ndarray:
        return self.box + np.array([32 + slot * (self.picture.shape[1] + 32), 32] * 2)


@pytest.fixture(scope="session")
def yunet_file(shared: Path) -> Path:
    return shared / "weights" / "face_detection_yunet_2026may.onnx"


@pytest.fixture(scope="session")
def sfd_file(tmp_path_factory) -> Path:
    """S3FD with hand-made weights: detects a 32-pixel face around every bright red 8-pixel cell."""
    from face_alignment.detection.sfd.net_s3fd import s3fd

    net = s3fd()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.zero_()
            if name.endswith("conf.bias"):
                parameter.copy_(torch.tensor([8.0] * (len(parameter) - 1) + [-8.0]))
        net.conv1_1.weight[0, :, 1, 1] = torch.tensor([0, -0.01, 0.01])
        for layer in (net.conv1_2, net.conv2_1, net.conv2_2, net.conv3_1, net.conv3_2, net.conv3_3):
            layer.weight[0, 0, 1, 1] = 1
        for layer in (net.conv4_1, net.conv4_2, net.conv4_3):
            layer.weight[0, 0, 1, 1] = 1
        net.conv4_3_norm.weight.fill_(8)
        net.conv4_3_norm_mbox_conf.weight[:, 0, 1, 1] = torch.tensor([-1.25, 1.25])
    path = tmp_path_factory.mktemp("weights") / "s3fd.pth"
    torch.save(net.state_dict(), path)
    return path


def astronaut() -> np.ndarray:
    return cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)


@pytest.fixture(scope="module", params=["center", "yunet", "haar", "sfd"])
def case(request) -> Case:
    if request.param == "sfd":
        file = request.getfixturevalue("sfd_file")
        picture = np.full((80, 80, 3), DARK, np.uint8)
        picture[40:48, 40:48] = (0, 0, 255)
        return Case(load_detector("sfd", sfd=file), picture, np.array([28, 28, 60, 60], np.float32))
    file = request.getfixturevalue("yunet_file") if request.param == "yunet" else None
    # The face in the photo, by eye: forehead to chin, ear to ear.
    face = np.array([176, 60, 272, 180], np.float32) - np.array([96, 8, 96, 8])
    return Case(load_detector(request.param, yunet=file), astronaut()[8:264, 96:352], face)


def test_finds_the_face(case: Case) -> None:
    (found,) = case.detector([case.scene(1)])
    assert len(found) == 1
    assert found[0].box.dtype == np.float32
    assert found[0].box.shape == (4,)
    assert 0.5 < found[0].score <= 1
    assert overlap(found[0].box, case.box_in(1)) > 0.7


def test_finds_no_face_where_there_is_none(case: Case) -> None:
    for picture in (skimage.data.brick(), skimage.data.grass()):
        assert case.detector([cv2.cvtColor(picture[:160, :160], cv2.COLOR_GRAY2BGR)]) == [[]]


def test_finds_two_faces_the_best_first(case: Case) -> None:
    (found,) = case.detector([case.scene(0, 1)])
    assert len(found) == 2
    assert found[0].score >= found[1].score
    left, right = sorted(found, key=lambda one: float(one.box[0]))
    assert overlap(left.box, case.box_in(0)) > 0.7
    assert overlap(right.box, case.box_in(1)) > 0.7


def test_keeps_the_order_of_a_batch_of_mixed_sizes(case: Case) -> None:
    frames = [case.scene(0), case.scene(), case.scene(1), case.scene(0, room=1)]
    found = case.detector(frames)
    assert [len(faces) for faces in found] == [1, 0, 1, 1]
    assert overlap(found[2][0].box, case.box_in(1)) > 0.7
    assert overlap(found[3][0].box, case.box_in(0)) > 0.7
    assert case.detector([]) == []


def test_boxes_end_at_the_frame(case: Case) -> None:
    x, y = (int(value) for value in case.box[:2] + 6)
    frame = np.ascontiguousarray(case.picture[y:, x:])
    for face in case.detector([frame])[0]:
        assert (face.box[:2] >= 0).all()
        assert (face.box[2:] <= [frame.shape[1], frame.shape[0]]).all()


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (8, 300), (19, 40)])
def test_a_tiny_frame_has_no_face(case: Case, shape: tuple[int, int]) -> None:
    assert case.detector([np.zeros((*shape, 3), np.uint8)]) == [[]]


def test_yunet_gives_the_persons_right_eye_first(yunet_file: Path) -> None:
    (found,) = load_detector("yunet", yunet=yunet_file)([astronaut()])
    assert found[0].points is not None
    # Read off the photo by eye: the pupils, the tip of the nose, the mouth's corners.
    seen = np.array([[201, 102], [246, 102], [220, 126], [200, 143], [239, 144]])
    np.testing.assert_allclose(found[0].points, seen, atol=6)


def test_haar_and_sfd_give_no_points(sfd_file: Path) -> None:
    red = np.zeros((128, 128, 3), np.uint8)
    red[64:72, 64:72, 2] = 255
    assert load_detector("sfd", sfd=sfd_file)([red])[0][0].points is None
    assert load_detector("haar")([astronaut()])[0][0].points is None


def test_sfd_decodes_its_anchors_and_is_given_red_as_red(sfd_file: Path) -> None:
    frame = np.zeros((128, 160, 3), np.uint8)
    frame[40:48, 80:88] = (0, 0, 255)
    frame[88:96, 24:32] = (255, 0, 0)
    (found,) = load_detector("sfd", sfd=sfd_file)([frame])
    # Cell (5, 10) of stride 8 has its centre at (84, 44) and an anchor of 32. Logits -2 and 2 at weight 8 * 1.25.
    np.testing.assert_allclose(found[0].box, [68, 28, 100, 60], atol=1e-3)
    assert found[0].score == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-4)
    assert len(found) == 1


def test_sfd_takes_the_released_layout(shared: Path, sfd_file: Path) -> None:
    listing = json.loads((shared / "reference" / "state_dicts" / "s3fd_state_dict.json").read_text())
    weights = torch.load(sfd_file, weights_only=True)
    assert {key: list(value.shape) for key, value in weights.items()} == listing


def test_sfd_runs_no_code_from_its_file(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable, tuple]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"conv1_1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="is not an S3FD checkpoint"):
        load_detector("sfd", sfd=tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04broken"])
def test_sfd_refuses_other_files_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(ValueError, match="is not an S3FD checkpoint") as caught:
        load_detector("sfd", sfd=tmp_path / "other.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"a": torch.zeros(1)}, [1, 2], torch.zeros(3)])
def test_sfd_refuses_other_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is not an S3FD checkpoint"):
        load_detector("sfd", sfd=tmp_path / "other.pth")


def test_sfd_without_a_file_says_where_to_get_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"https://.*s3fd-619a316812.pth.*--s3fd"):
        load_detector("sfd")
    with pytest.raises(ValueError, match="no S3FD weights at"):
        load_detector("sfd", sfd=tmp_path / "absent.pth")


def test_sfd_takes_torch_hubs_file(tmp_path: Path, monkeypatch, sfd_file: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "s3fd-619a316812.pth").symlink_to(sfd_file)
    assert load_detector("sfd")([np.zeros((64, 64, 3), np.uint8)]) == [[]]


def test_an_unknown_name_and_a_missing_gpu_are_refused(sfd_file: Path) -> None:
    with pytest.raises(ValueError, match="auto, center, yunet, sfd, haar"):
        load_detector("dlib")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda"):
            load_detector("sfd", "cuda", sfd=sfd_file)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    """An empty model cache without network access."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(yunet.urllib.request, "urlopen", opener(REFUSED))
    return tmp_path / "cache" / "wav2lip" / "face_detection_yunet_2023mar.onnx"


def opener(reply: bytes | Exception) -> Callable:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert url.startswith("https://github.com/opencv/opencv_zoo/")
        assert timeout <= 10
        if isinstance(reply, Exception):
            raise reply
        return io.BytesIO(reply)

    return urlopen


def test_yunet_is_fetched_once_and_checked(cache: Path, monkeypatch, yunet_file: Path) -> None:
    model = yunet_file.read_bytes()
    monkeypatch.setattr(yunet.urllib.request, "urlopen", opener(model))
    monkeypatch.setattr(yunet, "SHA256", hashlib.sha256(model).hexdigest())
    assert find_yunet() == cache
    assert cache.read_bytes() == model
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    monkeypatch.setattr(yunet.urllib.request, "urlopen", opener(REFUSED))
    assert find_yunet() == cache
    assert isinstance(load_detector("auto"), YuNet)


def test_a_fetched_file_with_another_hash_is_refused(cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(yunet.urllib.request, "urlopen", opener(b"something else"))
    with pytest.raises(ValueError, match="SHA-256"):
        find_yunet()
    assert not cache.exists()


@pytest.mark.parametrize("error", [REFUSED, TimeoutError("timed out"), ConnectionResetError(104, "reset")])
def test_yunet_without_a_network_names_the_flag_and_auto_takes_our_own(cache, monkeypatch, caplog, error) -> None:
    monkeypatch.setattr(yunet.urllib.request, "urlopen", opener(error))
    with pytest.raises(ValueError, match="--yunet"):
        load_detector("yunet")
    detectors._tell_fallback.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_detector("auto"), CenterDetector)
        assert isinstance(load_detector("auto"), CenterDetector)
    (record,) = caplog.records
    assert "--yunet" in record.getMessage()
    assert "http" not in record.getMessage()


def test_a_cache_that_cannot_be_written_is_said(cache: Path, monkeypatch, yunet_file: Path) -> None:
    model = yunet_file.read_bytes()
    monkeypatch.setattr(yunet.urllib.request, "urlopen", opener(model))
    monkeypatch.setattr(yunet, "SHA256", hashlib.sha256(model).hexdigest())
    cache.parent.parent.write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="cannot be saved"):
        find_yunet()


@pytest.mark.parametrize("name", ["auto", "yunet"])
def test_a_given_file_that_is_no_yunet_is_refused(tmp_path: Path, capfd, name: str) -> None:
    with pytest.raises(ValueError, match="no YuNet model at"):
        load_detector(name, yunet=tmp_path / "absent.onnx")
    for number, content in enumerate((b"", b"not a net")):
        (tmp_path / f"{number}.onnx").write_bytes(content)
        with pytest.raises(ValueError, match="is not a YuNet face detector") as caught:
            load_detector(name, yunet=tmp_path / f"{number}.onnx")
        assert "\n" not in str(caught.value)
