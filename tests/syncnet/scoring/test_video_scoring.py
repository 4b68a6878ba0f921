"""Judge metrics: on planted embeddings, in agreement with the score command, and without speech."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from evaluation.metrics.face_crops import GEOMETRY, SIDE, SourceVideo
from evaluation.metrics.sync import crop_region, judge_sync, sync
from preprocessing.build.video_pipeline import read_audio
from preprocessing.dataset.clips import Clip
from preprocessing.dataset.windows import CropRegion, face_window
from preprocessing.faces.crops import crop
from preprocessing.media.speech_activity import speech_columns
from preprocessing.media.video_reader import probe, read_frames
from syncnet.data import MOUTH
from syncnet.model import SmallSyncNet
from syncnet.offset import REACH, cosine_distances, shift_curve, sync_score
from syncnet.scoring.video_scoring import ExpertScorer, score_tracks
from syncnet.sync_expert import SyncExpert
from tests.material import still_track, swaying_photo, write_numbered_clip, write_talk

FRAMES = 75


@pytest.fixture(scope="module")
def expert() -> SyncExpert:
    torch.manual_seed(0)
    return SyncExpert(
        SmallSyncNet(dimension=16, mouth_size=32).eval(), CropRegion(left=0.2, top=0.3, side=0.5, size=32)
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> SourceVideo:
    path = write_talk(tmp_path_factory.mktemp("talk") / "a.mp4", swaying_photo(FRAMES))
    track = still_track(FRAMES)
    maps = [GEOMETRY.matrix(box, points, track.size) for box, points in zip(track.boxes, track.points, strict=True)]
    frames = read_frames(path, fps=Fraction(25))
    faces = np.stack([crop(frame, place, SIDE) for frame, place in zip(frames, maps, strict=True)])
    return SourceVideo(path, probe(path), 0, track, faces, read_audio(path).samples)


def test_the_judge_sees_of_a_crop_what_it_sees_of_a_clip(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    clip = Clip.open(write_numbered_clip(tmp_path / "a.safetensors", noise))
    whole = face_window(clip, CropRegion(size=96), 0, 2)
    assert np.array_equal(crop_region(whole, MOUTH), face_window(clip, MOUTH, 0, 2))


def test_the_sync_of_planted_embeddings():
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(50, 64)).astype(np.float32)
    audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    counted = np.ones(50, bool)
    late = sync(cosine_distances(np.roll(audio, 2, axis=0), audio), counted)
    assert (late.offset, late.within_1) == (2, 0)  # the picture at i fits the sound at i - 2
    together = sync(cosine_distances(audio, audio), counted)
    assert (together.offset, together.within_1) == (0, 1)
    assert (together.cosine, together.distance) == (pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert together.confidence == pytest.approx(1, abs=0.1)
    half = cosine_distances(np.where(np.arange(50)[:, None] < 25, audio, -audio), audio)
    assert sync(half, counted).cosine == pytest.approx(0, abs=1e-6)
    assert sync(half, np.arange(50) < 25).cosine == pytest.approx(1)


def test_the_curve_goes_from_early_to_late_sounds():
    distances = np.ones((20, 31), np.float32)
    distances[:, 2] = 0.25
    said = sync(distances, np.ones(20, bool))
    assert (said.offset, said.distance, said.confidence) == (13, 0.25, 0.75)
    assert np.argmin(said.curve) == REACH - said.offset


def test_a_video_is_judged_as_the_score_command_judges_it(source, expert):
    """Scoring a video crops the region from the frame; here it is cropped from the points crop."""
    (person,) = score_tracks(source.path, [source.track], source.samples, ExpertScorer(expert))
    counted = ExpertScorer(expert).scored_windows(speech_columns(source.samples), person.starts)
    score, curve = sync_score(person.distances, counted), shift_curve(person.distances[counted])
    figures, found = judge_sync(source.faces, source.samples, 0, expert)
    assert np.abs(np.array(found) - curve).max() < 5e-3
    assert set(figures) == {"offset", "within_1", "distance", "confidence", "cosine"}
    assert figures["offset"] == score.offset
    assert figures["within_1"] == (abs(score.offset) <= 1)
    assert figures["distance"] == pytest.approx(score.distance, abs=5e-3)
    assert figures["confidence"] == pytest.approx(score.confidence, abs=5e-3)
    assert figures["cosine"] == pytest.approx(1 - curve[REACH], abs=5e-3)


def test_a_run_in_the_middle_is_compared_with_the_sounds_around_it(source, expert):
    """A part has the same distances as in the whole video, including those to audio outside the part."""
    scorer, first, last = ExpertScorer(expert), 20, 50
    video = scorer.embed(crop_region(source.faces, expert.region))
    whole = scorer.compare(video, 0, (0, FRAMES), source.samples)[first : last - 4]
    counted = scorer.scored_windows(speech_columns(source.samples), np.arange(first, last - 4))
    _, found = judge_sync(source.faces[first:last], source.samples, first, expert)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, shift_curve(whole[counted]), atol=1e-5)


def test_pictures_beyond_the_sound_play_no_part(source, expert):
    short = source.samples[: 640 * 40]
    assert judge_sync(source.faces, short, 0, expert) == judge_sync(source.faces[:40], short, 0, expert)


def test_where_nobody_speaks_nothing_is_said(source, expert):
    silent = np.zeros_like(source.samples)
    for samples in (silent, silent[:0], source.samples[: 640 * 4]):
        assert judge_sync(source.faces, samples, 0, expert) == ({}, [])
    assert judge_sync(source.faces[:10], source.samples[: 640 * 60], 58, expert) == ({}, [])
