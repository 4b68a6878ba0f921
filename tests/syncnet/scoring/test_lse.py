"""Our implementation of syncnet_python's network and protocol reproduces its numbers."""

import importlib.util
import json
import os
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from scipy.signal import medfilt

from evaluation.metrics.face_crops import SourceVideo
from evaluation.metrics.sync import published_sync
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.video_reader import probe
from syncnet.offset import shift_curve, sync_score
from syncnet.scoring.lse import PublishedScorer, PublishedSyncNet, load_published, lse_distances
from syncnet.scoring.mfcc import mfcc
from training.safe_pickle import weight_mismatches


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "reference/golden/lse.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def weights(shared):
    """The stand-in weights that made the golden data."""
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "reference/reference_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listing = json.loads((shared / "reference/golden/listings.json").read_text())["syncnet_python_S"]
    return module.reference_state_dict(listing, seed=1)


@pytest.fixture(scope="module")
def published(weights, tmp_path_factory):
    """The weights in the published form: a state dict in PyTorch's legacy format, without batch norm counters."""
    path = tmp_path_factory.mktemp("model") / "syncnet_v2.model"
    old = {key: value for key, value in weights.items() if "num_batches" not in key}
    torch.save(old, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def scorer(published):
    return PublishedScorer(load_published(published))


@pytest.fixture(scope="module")
def lips(scorer, golden):
    return scorer.embed(golden["frames_bgr"][:29])


def test_the_network_has_the_published_shape(weights):
    assert weight_mismatches(weights, PublishedSyncNet) == ""
    assert sum(weight.numel() for weight in PublishedSyncNet().parameters()) == 13_631_616


def test_mfcc_is_python_speech_features(golden):
    columns = mfcc(golden["wav"])
    assert columns.shape == (13, 121)
    assert np.abs(columns - golden["mfcc"]).max() < 1e-6
    assert np.abs(mfcc(golden["wav"], 17, 40) - golden["mfcc"][:, 17:40]).max() < 1e-6


@pytest.mark.parametrize(("samples", "columns"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3)])
def test_the_last_frame_of_the_sound_is_filled(samples, columns):
    assert mfcc(np.full(samples, 100, np.int16)).shape == (13, columns)


def test_silence_has_the_energy_of_the_smallest_number():
    assert mfcc(np.zeros(400, np.int16))[0, 0] == np.log(np.finfo(float).eps)


def test_embeddings_and_distances_are_the_protocols(scorer, golden, lips):
    assert np.abs(lips - golden["lip_emb"]).max() < 1e-3
    distances = scorer.compare(lips, 0, (0, 30), golden["wav"])
    assert np.abs(distances - golden["dists"]).max() < 1e-3
    assert np.abs(shift_curve(distances) - golden["mdist"]).max() < 1e-3
    score = sync_score(distances)
    assert (score.offset, score.windows) == (int(golden["offset"]), 25)
    assert abs(score.distance - golden["lse_d"]) < 1e-3
    assert abs(score.confidence - golden["lse_c"]) < 1e-3


def test_a_track_in_blocks_and_in_the_middle_of_a_video_is_the_same(scorer, golden, lips):
    """Its audio is cut as well: audio before and after the track does not matter."""
    rng = np.random.default_rng(0)
    wav = np.concatenate([rng.integers(-9000, 9000, 640 * 7), golden["wav"][: 640 * 30], rng.integers(-99, 99, 5000)])
    parts = [scorer.compare(lips[first : first + 10], 7 + first, (7, 37), wav) for first in (0, 10, 20)]
    assert np.abs(np.concatenate(parts) - golden["dists"]).max() < 1e-3


def write_exactly(path, pictures):
    """A losslessly encoded video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def test_an_evaluated_video_has_the_protocols_scores(tmp_path, scorer, golden):
    """The run begins after some frames of something else, and the source is twice as large as the video.

    A face of 160 pixels around (112, 80) is seen in the whole picture.
    """
    rng, before, scale = np.random.default_rng(0), 7, 2
    pictures = np.concatenate([rng.integers(0, 256, (before, 224, 224, 3), np.uint8), golden["frames_bgr"]])
    path = write_exactly(tmp_path / "a.mkv", pictures)
    info = replace(probe(path), width=224 * scale, height=224 * scale)
    run = track(np.tile(scale * np.array([32, 0, 192, 160]), (30, 1)))
    source = SourceVideo(path, info, before, run, np.zeros((0, 128, 128, 3), np.uint8), np.zeros(0, np.int16))
    sound = np.concatenate([rng.integers(-9000, 9000, 640 * before).astype(np.int16), golden["wav"]])
    figures, curve = published_sync(path, source, sound, scorer)
    assert np.abs(np.array(curve) - golden["mdist"]).max() < 1e-3
    assert figures["lse_offset"] == float(golden["offset"])
    assert figures["lse_d"] == pytest.approx(float(golden["lse_d"]), abs=1e-3)
    assert figures["lse_c"] == pytest.approx(float(golden["lse_c"]), abs=1e-3)
    assert published_sync(path, source, np.zeros_like(sound), scorer) == ({}, [])


@pytest.mark.parametrize("case", ["p3", "m4"])
def test_given_embeddings_score_as_the_original_scores_them(golden, case):
    lip, audio, curve, distance, confidence, offset = (
        golden[f"given_{case}_{name}"] for name in ("lip", "audio", "mdist", "lse_d", "lse_c", "offset")
    )
    distances = lse_distances(lip, np.pad(audio, ((15, 15), (0, 0))))
    score = sync_score(distances)
    assert np.abs(shift_curve(distances) - curve).max() < 1e-4
    assert score.offset == offset == {"p3": 3, "m4": -4}[case]
    assert score.distance == pytest.approx(float(distance), abs=1e-4)
    assert score.confidence == pytest.approx(float(confidence), abs=1e-4)


def test_every_window_counts_but_a_tracks_last(scorer):
    assert scorer.window_count(30) == 25
    assert scorer.scored_windows(np.zeros(96, bool), np.arange(7)).all()


def track(boxes):
    count = len(boxes)
    points = np.zeros((count, 5, 2), np.float32)
    return FaceTrack(np.asarray(boxes, np.float32), points, np.ones(count, bool), np.zeros(count, np.int32), (200, 100))


def test_the_square_follows_the_medians_of_the_box(scorer):
    rng = np.random.default_rng(1)
    corner, size = rng.integers(20, 60, (40, 2)), rng.integers(20, 30, (40, 2))
    places = scorer.crop_params(track(np.hstack([corner, corner + size])))
    centres, sides = corner + size / 2, size.max(1) / 2
    oracle = np.column_stack([medfilt(column, 13) for column in (*centres.T, sides)])
    np.testing.assert_allclose(places, oracle)
    assert (scorer.crop_params(track([[10, 20, 30, 50]] * 6)) == [20, 35, 15]).all()


def test_the_square_has_room_at_its_sides_and_below_and_is_grey_outside(scorer):
    """Side 10 around (100, 50): columns 86 to 114 and rows 40 to 68, 28 pixels each, eightfold."""
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[:, :, 0], frame[:, :, 1] = np.arange(200), np.arange(100)[:, None]
    square = scorer.crop(frame, np.array([100.0, 50.0, 10.0]))
    assert square.shape == (224, 224, 3)
    middles = square[4::8, 4::8]
    assert np.abs(middles[0, :, 0].astype(int) - np.arange(86, 114)).max() <= 1
    assert np.abs(middles[:, 0, 1].astype(int) - np.arange(40, 68)).max() <= 1
    corner = scorer.crop(frame, np.array([0.0, 0.0, 10.0]))  # columns -14 to 14, rows -10 to 18
    assert (corner[:75] == 110).all()
    assert (corner[:, :107] == 110).all()
    assert corner[100, 130, 2] == 0


class Touch:
    """Unpickling this runs a command that creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_other_files_are_refused_in_one_line(tmp_path, weights):
    other = {key: value for key, value in weights.items() if not key.startswith("netfclip.0")}
    path = tmp_path / "a.model"
    contents = {
        "2 missing (netfclip.0.weight, netfclip.0.bias)": other,
        "unexpected (weight, bias)": torch.nn.Linear(2, 2).state_dict(),
        "nothing was executed": {"x": Touch(tmp_path / "ran")},
    }
    for message, content in contents.items():
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"a\.model") as caught:
            load_published(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="does not exist"):
        load_published(tmp_path / "b.model")
