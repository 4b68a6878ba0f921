"""The face detector's training: labels, scenes, targets, losses, and runs that resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from preprocessing.errors import UsageError
from preprocessing.faces.detectors.center import train as center_train
from preprocessing.faces.detectors.center.detector import without_overlaps
from preprocessing.faces.detectors.center.model import CenterNet
from preprocessing.faces.detectors.center.network_config import STRIDE, VALUES, CenterConfig, decode_cells, encode_faces
from preprocessing.faces.detectors.center.train import (
    CenterRecipe,
    CenterTrainOptions,
    draw_scenes,
    main,
    pictures_tensor,
    train,
    train_step,
)
from preprocessing.faces.detectors.center.train import start as start_training
from preprocessing.faces.detectors.center.training.losses import center_losses, targets_of
from preprocessing.faces.detectors.center.training.measure import DetectionCount
from preprocessing.faces.detectors.center.training.pictures import Face, open_pictures, save_pictures
from preprocessing.faces.detectors.center.training.scenes import Scene, SceneMaker, SceneRecipe, visible_share
from preprocessing.faces.face_track import Detection
from preprocessing.faces.landmarks.model import mirror_rows
from preprocessing.faces.mesh import canonical_face
from training.checkpoint import Checkpoint
from training.engine import Engine

ASTRONAUT = np.ascontiguousarray(skimage.data.astronaut()[..., ::-1])
EYES = np.array([226.0, 108.0])  # between the eyes, which lie 40 pixels apart
MESH = (canonical_face()[:, :2] - [64, 44]) * (40 / 42) + EYES
RECIPE = CenterRecipe(
    CenterConfig((4, 8, 8, 8, 8), (1, 1, 1, 1), 8, 64), SceneRecipe(64, 20, 50), steps=4, batch_size=2, warmup=1
)
CPU = Engine(accelerator="cpu", precision="32-true")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with two pictures of each split."""
    cache = tmp_path_factory.mktemp("pictures")
    for split in ("train", "val"):
        mesh = np.stack([511 - MESH[:, 0], MESH[:, 1]], 1)[mirror_rows()]
        mirrored = np.ascontiguousarray(ASTRONAUT[:, ::-1]), mesh
        save_pictures([("a", ASTRONAUT, MESH), ("b", *mirrored)], cache / split)
    return cache


def test_a_face_is_a_tight_box_with_its_five_points():
    face = Face.of(MESH)
    x1, y1, x2, y2 = face.box()
    assert (176 < x1 < 190, 50 < y1 < 80, 262 < x2 < 276, 168 < y2 < 186) == (True,) * 4
    assert np.abs(face.points - [[206, 108], [246, 108], [228, 130], [210, 148], [244, 148]]).max() < 9
    assert abs(face.roll) < 0.02


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_moved_face_is_the_face_of_the_moved_mesh(mirrored):
    angle = np.radians(30)
    matrix = np.array([[np.cos(angle), -np.sin(angle), 5], [np.sin(angle), np.cos(angle), -40]]) * 1.5
    if mirrored:
        matrix[0] *= -1
    moved = Face.of(MESH).moved(matrix)
    mesh = MESH @ matrix[:, :2].T + matrix[:, 2]
    if mirrored:  # a mirrored face's right eye is the left one of the mesh
        assert moved.roll == pytest.approx(-angle, abs=0.02)
        assert moved.points[0] == pytest.approx(Face.of(MESH).points[1] @ matrix[:, :2].T + matrix[:, 2])
    else:
        assert moved.box() == pytest.approx(Face.of(mesh).box(), abs=0.01)
        assert moved.points == pytest.approx(Face.of(mesh).points)
    width, height = moved.box()[2:] - moved.box()[:2]
    upright = Face.of(MESH).size * 1.5
    assert upright[0] < width < upright[1]  # turned ellipses are wider and less high
    assert height < upright[1]


def test_boxes_and_points_survive_the_networks_values():
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 40, (5, 2))
    boxes = np.concatenate([rng.uniform(0, 100, (5, 2)), rng.uniform(120, 300, (5, 2))], 1)
    points = rng.uniform(0, 300, (5, 5, 2))
    found = decode_cells(cells, encode_faces(cells, boxes, points))
    assert found[0] == pytest.approx(boxes)
    assert found[1] == pytest.approx(points)


def test_stored_pictures_are_reduced_with_their_labels(folder):
    pictures = open_pictures(folder / "train")
    assert pictures.picture(0).shape == (320, 320, 3)
    assert np.array_equal(pictures.picture(1), cv2.resize(ASTRONAUT[:, ::-1], (320, 320)))
    assert pictures.faces[0].box() == pytest.approx(Face.of(MESH).box() * 320 / 512)
    assert pictures.persons.tolist() == ["a", "b"]
    with pytest.raises(UsageError, match="complete set of pictures"):
        open_pictures(folder)


def test_scenes_show_the_face_where_they_say(folder):
    """Where there is a face, there is skin at its nose and the same face again: found by correlation."""
    never = dict.fromkeys(
        ("natural", "empty", "turned", "dark", "scrambled", "covered", "blur", "gray", "jpeg", "noise"), 0.0
    )
    maker = SceneMaker(open_pictures(folder / "train"), [], SceneRecipe(128, 40, 60, crowd=2, **never))
    rng, differences = np.random.default_rng(1), []
    for scene in (maker.draw(rng) for _ in range(30)):
        for box in scene.boxes if len(scene.boxes) == 1 and not len(scene.ignored) else ():
            low, high = np.round(box[:2]).astype(int), np.round(box[2:]).astype(int)
            if (low >= 0).all() and (high <= 128).all():
                x1, y1, x2, y2 = np.round(Face.of(MESH).box()).astype(int)
                true = cv2.resize(ASTRONAUT[y1:y2, x1:x2], (40, 50), interpolation=cv2.INTER_AREA)
                seen = cv2.resize(scene.image[low[1] : high[1], low[0] : high[0]], (40, 50))
                gray = [one.mean(2).ravel() for one in (true, true[:, ::-1], seen)]
                differences.append(max(np.corrcoef(gray[2], one)[0, 1] for one in gray[:2]))
    assert len(differences) > 6
    assert np.median(differences) > 0.8


def test_scenes_are_drawn_by_seed_and_may_be_empty(folder):
    maker = SceneMaker(open_pictures(folder / "train"), [], replace(RECIPE.scenes, natural=0.2, empty=0.5))
    first, again = ([maker.draw(np.random.default_rng((7, k))) for k in range(8)] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.boxes, other.boxes)
    assert {len(scene.boxes) == 0 for scene in first} == {True, False}


def test_how_much_of_a_face_is_seen():
    face = Face(np.array([10.0, 20.0]), np.array([20.0, 20.0]), 0.0, np.zeros((5, 2)))
    nothing, half = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.float32)
    half[:20] = 1
    assert visible_share(face, nothing) == pytest.approx(1)
    assert visible_share(face, half) == pytest.approx(0.5)
    assert visible_share(replace(face, center=np.array([0.0, 20.0])), nothing) == pytest.approx(0.5)
    assert visible_share(replace(face, center=np.array([-30.0, 20.0])), nothing) == 0


def scene_of(*boxes: tuple[float, ...], ignored: tuple[tuple[float, ...], ...] = ()) -> Scene:
    boxes_array = np.array(boxes, np.float64).reshape(-1, 4)
    points = np.repeat(boxes_array[:, None, :2], 5, 1)
    return Scene(np.zeros((64, 64, 3), np.uint8), boxes_array, points, np.array(ignored).reshape(-1, 4))


def test_targets_by_hand():
    targets = targets_of([scene_of((16, 16, 40, 40), ignored=((48, 0, 64, 16),)), scene_of()])
    assert targets.heat.shape == (2, 8, 8)
    assert targets.heat[0, 3, 3] == 1  # the center, (28, 28), lies in cell 3, 3
    assert 0 < targets.heat[0, 3, 4] < 0.5
    assert targets.heat[1].max() == 0
    assert targets.weights.sum(dim=(1, 2)).tolist() == [1, 0]
    assert targets.counted[0, :2, 6:].max() == 0
    assert targets.counted[0].sum() == 60
    (box,), _ = decode_cells(np.array([[3, 3]]), targets.values[0, :, 3, 3].numpy()[None])
    assert box == pytest.approx([16, 16, 40, 40], abs=1e-3)


def test_losses_vanish_for_the_truth_and_ignore_what_is_ignored():
    targets = targets_of([scene_of((16, 16, 40, 40), ignored=((48, 0, 64, 16),))])
    logits = torch.where(targets.heat == 1, 20.0, -20.0)
    right = center_losses(logits, targets.values, targets)
    assert max(loss.item() for loss in right.values()) < 1e-6
    logits[0, 0, 7] = 20  # there it is ignored
    assert center_losses(logits, targets.values, targets)["heat"].item() < 1e-6
    logits[0, 7, 7] = 20
    assert center_losses(logits, targets.values, targets)["heat"].item() > 1
    assert center_losses(logits, targets.values + 1, targets)["box"].item() > 0.5


def test_detections_are_counted_by_hand():
    count = DetectionCount()
    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    places = ((0, 0, 10, 9), (0, 1, 10, 10), (50, 50, 60, 60), (70, 70, 80, 80))
    found = [Detection(np.array(box, np.float32), 0.9 - 0.1 * k) for k, box in enumerate(places)]
    count.add(found, boxes, np.array([[69.0, 69, 81, 81]]), (100, 100))
    assert count.figures() == {"recall": 0.5, "false": 2.0, "overlap": pytest.approx(0.9)}


def test_of_two_boxes_of_one_face_the_better_stays():
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]])
    assert without_overlaps(boxes, np.array([0.5, 0.9, 0.6])) == [1, 2]


def test_the_network_has_a_cell_for_every_eight_pixels_and_few_weights():
    network = CenterNet(CenterConfig())
    logits, values = network.eval()(torch.zeros(1, 3, 64, 96))
    assert logits.shape == (1, 64 // STRIDE, 96 // STRIDE)
    assert values.shape == (1, VALUES, 64 // STRIDE, 96 // STRIDE)
    assert sum(weight.numel() for weight in network.parameters()) < 300_000


def test_steps_on_one_batch_reduce_its_loss(folder):
    state = start_training(replace(RECIPE, steps=1000, lr=1e-2), CPU.launch())
    maker = SceneMaker(open_pictures(folder / "train"), [], RECIPE.scenes)
    scenes = draw_scenes((maker, maker), RECIPE, 0)
    losses = [train_step(state, pictures_tensor(scenes), targets_of(scenes)) for _ in range(12)]
    first, last = (sum(loss.item() for loss in step.values()) for step in (losses[0], losses[-1]))
    assert last < 0.7 * first


def options(out: Path, cache: Path) -> CenterTrainOptions:
    return CenterTrainOptions(out, out, out, cache=cache, log_every=1, validate_every=2)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(folder, tmp_path, monkeypatch):
    def stopping(state: center_train.CenterTrainState, *batch: object) -> object:
        if state.step == 3:
            raise KeyboardInterrupt
        return train_step(state, *batch)  # type: ignore[arg-type]

    train(RECIPE, options(tmp_path / "whole", folder), CPU)
    with monkeypatch.context() as patch:
        patch.setattr(center_train, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, options(tmp_path / "parts", folder), CPU)
    train(RECIPE, options(tmp_path / "parts", folder), CPU)
    runs = [tmp_path / name for name in ("whole", "parts")]
    one, other = (Checkpoint.load(run / "face_detector.safetensors").weights for run in runs)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 4
    with pytest.raises(UsageError, match=r"has lr 0\.003, not 0\.1"):
        train(replace(RECIPE, lr=0.1), options(tmp_path / "whole", folder), CPU)


def test_a_run_goes_on_from_another_ones_weights(folder, tmp_path):
    short = replace(RECIPE, steps=1)
    train(short, options(tmp_path / "first", folder), CPU)
    file = tmp_path / "first" / "face_detector.safetensors"
    state = start_training(RECIPE, CPU.launch(), file)
    saved = Checkpoint.load(file).weights
    assert all(torch.equal(value.cpu(), saved[key]) for key, value in state.network.state_dict().items())
    wider = replace(RECIPE, network=CenterConfig((8, 8, 8, 8, 8), (1, 1, 1, 1), 8, 64))
    with pytest.raises(UsageError, match="has the network"):
        start_training(wider, CPU.launch(), file)


def test_wrong_usage_is_one_line(capsys, tmp_path):
    assert main(["--videos", str(tmp_path), "--mesh", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has labels in" in line
    with pytest.raises(UsageError, match="side must be a multiple of 32"):
        CenterConfig(side=100)
    with pytest.raises(UsageError, match="smallest must be from 4"):
        SceneRecipe(smallest=300)
