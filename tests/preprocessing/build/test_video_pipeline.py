"""Building the clips of one video: contents, boundaries, and skipped work."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import video_pipeline as stages
from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import STAGES, ClipRecipe, VideoOutcome, make_clips
from preprocessing.dataset.clip_candidates import MIN_SIZE, SIDE_STEP, stored_size
from preprocessing.dataset.clips import Clip
from preprocessing.dataset.quality_filters import QualityFilters
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import FaceTrack, estimate_points
from preprocessing.media.audio import load_audio
from preprocessing.media.video_reader import read_frames
from tests.material import SIDE, swaying_photo, write_talk

HAAR = ClipRecipe(detector="haar", max_faces=1)
EMPTY = np.full((SIDE, SIDE, 3), 90, np.uint8)


def source(path: Path, speaker: str = "s/1") -> VideoSource:
    return VideoSource(path, path.name, "talk-00000000", speaker, "train", "en", "CC0")


def made(path: Path, clips: Path, recipe: ClipRecipe = HAAR) -> VideoOutcome:
    outcome = make_clips(source(path), clips, recipe)
    assert outcome.fate == "made", outcome.reason
    return outcome


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """A video whose face appears after a second, its outcome, and the folder of its clips."""
    folder = tmp_path_factory.mktemp("late")
    path = write_talk(folder / "late.mp4", [EMPTY] * 25 + swaying_photo(60))
    return path, made(path, folder), folder


def test_the_row_and_the_header_say_where_a_clip_is_from(late):
    path, outcome, folder = late
    (row,) = outcome.rows
    clip = Clip.open(folder / row.clip)
    assert row.clip == "clips/s_1/talk-00000000__a0000.safetensors"
    assert (row.video, row.person, row.number) == ("late.mp4", 0, 0)
    assert (row.speaker, row.split, row.language, row.licence) == ("s/1", "train", "en", "CC0")
    assert row.passes
    assert row.start == pytest.approx(1.0, abs=0.2)
    assert row.seconds == row.frames / 25 == pytest.approx(3.4 - row.start, abs=0.1)
    header = clip.header
    assert (header.start, header.frames, header.speaker, header.licence) == (row.start, row.frames, "s/1", "CC0")
    assert header.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (header.crop.kind, header.crop.size, header.margin) == ("points", row.size, row.size // 8)
    assert row.audio_sha256 == hashlib.sha256(clip.audio.tobytes()).hexdigest()
    assert set(header.versions) == {"python", "opencv", "av", "numpy"}


def test_picture_and_sound_are_those_of_the_same_time(late):
    path, outcome, folder = late
    clip = Clip.open(folder / outcome.rows[0].clip)
    first = round(clip.header.start * 25)
    audio = np.rint(load_audio(path) * 32768).astype(int)[first * 640 :][: clip.frames * 640]
    assert len(clip.audio) == clip.frames * 640
    assert np.abs(clip.audio[: len(audio)] - audio).max() <= 1
    frames, track = list(read_frames(path, fps=Fraction(25))), clip.track
    for k in (0, 7, clip.frames - 1):
        matrix = CropGeometry("points", clip.size).matrix(track.boxes[k], track.points[k], (SIDE, SIDE))
        matrix[:, 2] += clip.margin
        own, face = clip.size + 2 * clip.margin, clip.faces(k, 1)[0].astype(int)
        right = [np.abs(crop(frames[j], matrix, own) - face).mean() for j in range(first, first + clip.frames)]
        assert int(np.argmin(right)) == k
        assert right[k] < 3


def test_speech_flags_are_those_of_the_whole_sound(late):
    path, outcome, folder = late
    clip, audio = Clip.open(folder / outcome.rows[0].clip), stages.read_audio(path)
    start = round(clip.header.start * 80)
    assert np.array_equal(clip.speech[:100], audio.flags[start : start + 100])
    assert outcome.rows[0].speech == pytest.approx(clip.speech.mean())


def test_each_stage_has_its_time(late):
    outcome = late[1]
    assert tuple(outcome.stages) == STAGES
    assert all(seconds > 0 for seconds in outcome.stages.values())
    assert outcome.seconds == pytest.approx(3.4, abs=0.05)


def test_a_small_face_is_stored_smaller(late):
    row = late[1].rows[0]
    assert row.size % SIDE_STEP == 0
    assert MIN_SIZE < row.size < HAAR.size
    box = np.array([0, 0, 100, 100], np.float32)
    points = np.repeat(estimate_points(box)[None], 3, axis=0)
    square = 1 / np.sqrt(np.linalg.det(CropGeometry("points", 1).matrix(box, points[0], (1, 1))[:, :2]))
    assert stored_size(points, 160, 1.0) == square // 8 * 8
    assert stored_size(points, 96, 1.0) == 96
    assert stored_size(points / 20, 160, 1.5) == MIN_SIZE


def test_cuts_end_a_clip(tmp_path):
    face = swaying_photo(60)
    other = [frame[:, ::-1, ::-1] for frame in face]
    outcome = made(write_talk(tmp_path / "cut.mp4", [*face[:30], *other[:35], *face[30:]]), tmp_path)
    assert [row.number for row in outcome.rows] == [0, 1, 2]
    assert [round(row.start * 25) for row in outcome.rows] == [0, 30, 65]
    assert [row.frames for row in outcome.rows] == [30, 35, 30]


def test_long_runs_are_cut_into_pieces(tmp_path):
    recipe = replace(HAAR, filters=QualityFilters(min_seconds=0.5, max_seconds=1.2))
    outcome = made(write_talk(tmp_path / "long.mp4", swaying_photo(75)), tmp_path, recipe)
    assert [row.number for row in outcome.rows] == [0, 1, 2]
    assert max(row.frames for row in outcome.rows) <= 30
    assert sum(row.frames for row in outcome.rows) == 75
    assert len(list((tmp_path / "clips").rglob("*.safetensors"))) == 3


def test_the_clip_ends_with_the_sound(tmp_path):
    path = write_talk(tmp_path / "short.mkv", swaying_photo(50), seconds=1.4)
    (row,) = made(path, tmp_path).rows
    assert row.frames == len(load_audio(path)) // 640 == pytest.approx(35, abs=2)


def test_what_is_too_short_is_a_row(tmp_path):
    outcome = make_clips(source(write_talk(tmp_path / "short.mp4", swaying_photo(20))), tmp_path, HAAR)
    (row,) = outcome.rows
    assert (outcome.fate, outcome.reason) == ("rejected", "no clip passes: seconds 1")
    assert (row.reason, row.clip, row.frames, row.size) == ("seconds", "", 20, 0)
    assert row.side > 40
    assert np.isnan(row.sharpness)


def test_nothing_is_decoded_twice_when_nothing_is_wanted(tmp_path, monkeypatch):
    calls = []

    def count(*arguments, **options):
        calls.append(options)
        return read_frames(*arguments, **options)

    monkeypatch.setattr(stages, "read_frames", count)
    path = write_talk(tmp_path / "talk.mp4", swaying_photo(40))
    outcome = make_clips(source(path), tmp_path, replace(HAAR, filters=QualityFilters(min_side=1000.0)))
    assert len(calls) == 1
    (row,) = outcome.rows
    assert row.reason == "side"
    assert np.isnan([row.sharpness, row.occluded]).all()
    assert np.isfinite([row.side, row.yaw, row.roll, row.missing, row.speech, row.level, row.clipped]).all()
    made(path, tmp_path)
    assert len(calls) == 3


def test_gates_of_the_picture_hold_a_clip_back(tmp_path):
    path = write_talk(tmp_path / "talk.mp4", swaying_photo(40))
    outcome = make_clips(source(path), tmp_path, replace(HAAR, filters=QualityFilters(min_sharpness=100.0)))
    assert outcome.rows[0].reason == "sharpness"
    assert outcome.rows[0].sharpness > 0
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_fade_at_the_beginning_is_cut_off(tmp_path):
    frames = swaying_photo(50)
    for k in range(20):  # from 2.5 % to 97.5 % of the contrast, too slowly for a cut
        share = 0.025 + 0.05 * k
        frames[k] = (share * frames[k] + (1 - share) * 130).astype(np.uint8)
    (row,) = made(write_talk(tmp_path / "fade.mp4", frames), tmp_path).rows
    assert 6 <= round(row.start * 25) <= 11
    assert round(row.start * 25) + row.frames == 50


def test_a_second_run_makes_the_same_files(late, tmp_path):
    path, outcome, folder = late
    again = made(path, tmp_path)
    assert [vars(row) for row in again.rows] == [vars(row) for row in outcome.rows]
    one, other = (Clip.open(place / outcome.rows[0].clip) for place in (folder, tmp_path))
    assert one.header == other.header
    assert one.jpegs(0, one.frames) == other.jpegs(0, other.frames)
    assert np.array_equal(one.mel, other.mel)


def test_memory_does_not_grow_with_the_length(tmp_path, monkeypatch):
    """Only the current frame is held: hundreds of frames take no more memory than a few."""
    path = write_talk(tmp_path / "talk.mp4", swaying_photo(30))
    frame = np.zeros((400, 400, 3), np.uint8)

    def still(frames, detector, *, max_faces):
        count = sum(1 for _ in frames)
        box = np.tile(np.array([100, 100, 300, 300], np.float32), (count, 1))
        points = np.repeat(estimate_points(box[0])[None], count, axis=0)
        return [FaceTrack(box, points, np.ones(count, bool), np.zeros(count, np.int32), (SIDE, SIDE))]

    def peak(count: int) -> int:
        monkeypatch.setattr(stages, "read_frames", lambda *args, **options: (frame.copy() for _ in range(count)))
        monkeypatch.setattr(stages, "track_faces", still)
        monkeypatch.setattr("preprocessing.dataset.clip_candidates.frames_with_audio", lambda frames, samples: frames)
        tracemalloc.start()
        make_clips(
            source(path), tmp_path, replace(HAAR, filters=QualityFilters(max_seconds=2.0, min_speech=0, min_level=-200))
        )
        value = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return value

    peak(100)
    assert peak(1000) < peak(100) + 500_000  # one frame has 480 000 bytes


def test_the_digest_tells_what_changes_the_clips(tmp_path):
    recipe = ClipRecipe(yunet=tmp_path / "one" / "yunet.onnx")
    assert recipe.digest() == replace(recipe, device="cuda", yunet=tmp_path / "two" / "yunet.onnx").digest()
    changed = [
        {"size": 96},
        {"filters": QualityFilters(min_side=50.0)},
        {"quality": 90},
        {"yunet": tmp_path / "other.onnx"},
    ]
    assert len({replace(recipe, **change).digest() for change in changed} | {recipe.digest()}) == 5


def test_the_detector_is_loaded_once(tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(stages, "load_detector", lambda *names, **files: loads.append(names) or (lambda frames: [[]]))
    stages._detector.cache_clear()
    path = write_talk(tmp_path / "talk.mp4", [EMPTY] * 5)
    for _ in range(2):
        make_clips(source(path), tmp_path, HAAR)
    stages._detector.cache_clear()
    assert len(loads) == 1


@pytest.mark.parametrize(
    "wrong", [{"size": 40}, {"margin": -0.1}, {"quality": 0}, {"max_faces": 27}, {"detector": "x"}]
)
def test_a_recipe_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClipRecipe(**wrong)
