"""Video scoring: results do not depend on blocks, windows stay within shots, and errors name the reason."""

import json
import shutil
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch

from preprocessing.build.video_pipeline import read_audio, track_video_faces
from preprocessing.dataset.windows import CropRegion
from preprocessing.errors import MediaError
from preprocessing.faces.crops import TEMPLATE
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import Detection, FaceTrack
from preprocessing.media.mel import mel_spectrogram
from preprocessing.media.speech_activity import speech_columns
from preprocessing.media.video_reader import probe
from syncnet import score as command
from syncnet.model import SmallSyncNet
from syncnet.offset import SyncScore, cosine_distances, sync_score
from syncnet.score import left_to_right, main, open_scorer, score_video
from syncnet.scoring import video_scoring as video
from syncnet.scoring.score_report import describe_offset, report, table
from syncnet.scoring.video_scoring import ExpertScorer, ScoredTrack, mel_around, score_tracks
from syncnet.sync_expert import SyncExpert
from tests.material import (
    SIDE,
    moving_photo,
    still_track,
    swaying_photo,
    write_photo,
    write_sound,
    write_talk,
    write_video,
)

RNG = np.random.default_rng(0)
NOISE = RNG.integers(-8000, 8000, 16000 * 4).astype(np.int16)


def untrained() -> ExpertScorer:
    torch.manual_seed(0)
    network = SmallSyncNet(dimension=16, mouth_size=32)
    return ExpertScorer(SyncExpert(network.eval(), CropRegion(left=0.2, top=0.3, side=0.5, size=32)))


class Notes:
    """A scorer that embeds a window as its five frame numbers, which it reads from the pixels."""

    def window_count(self, frames):
        return frames - 4

    def crop_params(self, track):
        return track.boxes

    def crop(self, frame, place):
        return np.full((1, 1, 3), round((float(frame[4:12, 4:12].mean()) - 10) / 5), np.uint8)

    def embed(self, faces):
        return np.stack([faces[k : k + 5, 0, 0, 0] for k in range(len(faces) - 4)])

    def compare(self, embedded, start, run, samples):
        assert (embedded[:, 0] == np.arange(start, start + len(embedded))).all()
        assert run[0] <= start
        assert start + len(embedded) + 4 <= run[1]
        assert (np.diff(embedded.astype(int), axis=1) == 1).all()
        return np.repeat(embedded[:, :1], 31, axis=1).astype(np.float32)

    def scored_windows(self, flags, starts):
        return np.ones(len(starts), bool)


def track(count, missing=(), cuts=(), size=(SIDE, SIDE)):
    """A static face that is missing in some frames; shots start at `cuts`."""
    whole = still_track(count)
    found = ~np.isin(np.arange(count), list(missing))
    shot = np.searchsorted(cuts, np.arange(count), side="right").astype(np.int32)
    return FaceTrack(whole.boxes, whole.points, found, shot, size)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """40 numbered frames."""
    return write_video(tmp_path_factory.mktemp("media") / "numbered.mp4", moving_photo(40))


# From frames to distances --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [2, 7, 128])
def test_windows_stay_within_a_shot_and_within_what_is_found(numbered, monkeypatch, block):
    monkeypatch.setattr(video, "BLOCK", block)
    people = [track(40, missing=range(12, 15), cuts=(20,)), track(40, missing=range(40)), track(40, missing=range(30))]
    one, nobody, late = score_tracks(numbered, people, NOISE, Notes())
    assert one.starts.tolist() == [*range(8), 15, *range(20, 36)]
    assert one.distances[:, 0].tolist() == one.starts.tolist()
    assert (one.first, one.last) == (0, 40)
    assert nobody is None
    assert (late.starts.tolist(), late.first) == ([*range(30, 36)], 30)


def test_what_lies_after_the_sound_is_not_looked_at(numbered):
    (person,) = score_tracks(numbered, [track(40)], NOISE[: 640 * 22 + 639], Notes())
    assert person.starts.tolist() == [*range(18)]


def test_the_progress_ends_with_the_last_face(numbered):
    calls = []
    score_tracks(numbered, [track(40, missing=range(25, 40))], NOISE, Notes(), lambda *numbers: calls.append(numbers))
    assert calls == [(k, 25) for k in range(1, 26)]


@pytest.mark.parametrize(("first", "last"), [(-20, 3), (0, 5), (3, 20), (14, 61), (95, 100), (98, 118)])
def test_the_mel_of_a_part_is_that_of_the_whole(first, last):
    samples = NOISE[: 640 * 100 - 77]
    whole = mel_spectrogram(samples)
    mel, begin = mel_around(samples, first, last)
    assert begin % 5 == 0
    assert max(first, 0) - 4 <= begin <= max(first, 0)
    column = begin * 16 // 5
    inside = whole[:, column : column + mel.shape[1]]
    np.testing.assert_allclose(mel[:, : inside.shape[1]], inside, atol=1e-4)
    assert inside.shape[1] >= min(int((last - begin) * 3.2), whole.shape[1] - 1 - column)


def test_distances_in_blocks_are_those_of_the_whole():
    scorer, samples = untrained(), NOISE[: 640 * 50]
    faces = RNG.integers(0, 255, (50, 32, 32, 3)).astype(np.uint8)
    embedded, starts = scorer.embed(faces), np.arange(46)
    expected = cosine_distances(embedded, scorer.expert.embed_speech(mel_spectrogram(samples), starts))
    parts = [scorer.compare(embedded[k : k + 17], k, (0, 50), samples) for k in range(0, 46, 17)]
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-4)  # nan where the sound has ended


def test_sounds_around_a_run_are_compared_too():
    """A face visible for a single window is compared with all the audio around it."""
    scorer = untrained()
    embedded = scorer.embed(RNG.integers(0, 255, (5, 32, 32, 3)).astype(np.uint8))
    distances = scorer.compare(embedded, 40, (40, 45), NOISE)
    sounds = scorer.expert.embed_speech(mel_spectrogram(NOISE), np.arange(25, 56))
    np.testing.assert_allclose(distances[0], 1 - sounds @ embedded[0], atol=1e-4)


def test_the_expert_sees_its_region_of_the_points_crop():
    """Eyes and nose of a face that lies as the template, fivefold and moved, land where the region puts them."""
    scorer, points = untrained(), np.zeros((1, 5, 2), np.float32)
    points[0, :3] = TEMPLATE * 480 + [30, 20] - 0.5
    face = FaceTrack(np.zeros((1, 4)), points, np.ones(1, bool), np.zeros(1, np.int32), (640, 640))
    (place,) = scorer.crop_params(face)
    np.testing.assert_allclose(place[:, :2], np.eye(2) * 32 / 240, atol=1e-6)
    np.testing.assert_allclose(
        points[0, :3] @ place[:, :2].T + place[:, 2], (TEMPLATE - [0.2, 0.3]) * 64 - 0.5, atol=1e-4
    )
    assert scorer.crop(np.zeros((640, 640, 3), np.uint8), place).shape == (32, 32, 3)


class Idle(Notes):
    """A scorer that ignores the frames."""

    def crop(self, frame, place):
        return np.zeros((64, 64, 3), np.uint8)

    def embed(self, faces):
        return np.zeros((len(faces) - 4, 256), np.float32)

    def compare(self, embedded, start, run, samples):
        return np.zeros((len(embedded), 31), np.float32)


def test_memory_does_not_grow_with_the_length(numbered, monkeypatch):
    frame, sound = np.zeros((SIDE, SIDE, 3), np.uint8), np.tile(NOISE, 20)

    def peak(count):
        monkeypatch.setattr(video, "read_frames", lambda *_, **__: (frame.copy() for _ in range(count)))
        tracemalloc.start()
        score_tracks(numbered, [track(count)], sound, Idle())
        value = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return value

    peak(200)
    assert peak(1200) < peak(200) + 1000 * 600  # twice 31 distances and what the track takes; a square has 12 288 bytes


# From distances to rows ----------------------------------------------------------------------------------------------


def watched(first, count, offset, depth):
    """A person whose distance curve has a minimum of the given depth at the given offset."""
    distances = np.full((count, 31), 1.0, np.float32)
    distances[:, 15 - offset] -= depth
    return ScoredTrack(first + np.arange(count), distances, first, first + count + 4)


def everything(starts):
    return np.ones(len(starts), bool)


def test_rows_are_of_the_whole_and_of_five_seconds(tmp_path):
    score = report(tmp_path / "a.mp4", 11.3, [watched(0, 280, -2, 0.25)], everything)
    spans = [(row.whole, row.start, row.end, row.score and row.score.windows) for row in score.rows]
    assert spans == [(True, 0, 11.36, 280), (False, 0, 5, 125), (False, 5, 10, 125), (False, 10, 11.3, 30)]
    assert {(row.score.offset, row.score.milliseconds) for row in score.rows} == {(-2, -80)}
    assert score.rows[0].score.confidence == pytest.approx(0.25)
    assert int(np.argmin(score.curves[1])) == 17


def test_a_span_with_less_than_a_second_of_speech_says_nothing(tmp_path):
    score = report(tmp_path / "a.mp4", 10.0, [watched(0, 246, 3, 0.5)], lambda starts: starts < 125 + 24)
    assert [row.score and row.score.windows for row in score.rows] == [149, 125, None]
    assert "too little speech" in table(score).splitlines()[-1]
    assert score.rows[-1].values()["offset"] is None


def test_the_one_with_the_highest_confidence_speaks_in_each_span(tmp_path):
    left, right = watched(0, 250, 0, 0.3), watched(100, 150, 1, 0.1)
    right.distances[:, 14] -= np.where(right.starts >= 125, 0.35, 0).astype(np.float32)
    score = report(tmp_path / "a.mp4", 10.2, [left, right], everything)
    assert [(row.start, row.person) for row in score.rows if row.speaks] == [(4.0, 2), (0.0, 1), (5.0, 2)]
    assert score.speaker.person == 2
    assert [line.endswith("speaks") for line in table(score).splitlines()[2:]] == [row.speaks for row in score.rows]


def test_people_are_numbered_from_the_left():
    left, right, nobody = track(9), track(9, missing=[0]), track(9, missing=range(9))
    left.boxes, nobody.boxes = left.boxes - np.float32(20), nobody.boxes * np.float32(np.nan)
    right.boxes[0] = np.nan
    assert left_to_right([right, nobody, left]) == [left, right]


@pytest.mark.parametrize(
    ("offset", "words"),
    [(0, "in sync"), (1, "audio 1 frame (40 ms) early"), (-2, "audio 2 frames (80 ms) late")],
)
def test_offsets_in_words(offset, words):
    assert describe_offset(SyncScore(offset, 0.5, 0.5, 99)) == words


# Real people ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speaker(shared):
    return shared / "data/val/grid_s1__bbas1s.mp4"


@pytest.fixture(scope="module")
def yunet(shared):
    return shared / "weights/face_detection_yunet_2026may.onnx"


def test_a_sound_that_is_moved_is_found_there(speaker, yunet):
    """Audio is early by the frames cut from its start and late by those inserted before it."""
    scorer, sound = open_scorer(), read_audio(speaker)
    (person,) = track_video_faces(speaker, probe(speaker), load_detector("yunet", yunet=yunet), 1)
    offsets = []
    for shift in (0, -6, 5):
        samples = np.roll(sound.samples, -640 * shift)
        (seen,) = score_tracks(speaker, [person], samples, scorer)
        offsets.append(sync_score(seen.distances, scorer.scored_windows(speech_columns(samples), seen.starts)).offset)
    own, late, early = offsets
    assert abs(own) <= 1
    assert abs(late - own + 6) <= 1
    assert abs(early - own - 5) <= 1


def test_the_command_scores_what_it_can(speaker, yunet, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "curve.png"
    flags = ["--json", "--plot", str(plot), "--yunet", str(yunet), "--max-faces", "1"]
    assert main([str(tmp_path / "not there.mp4"), str(speaker), *flags]) == 1
    told = capsys.readouterr()
    assert told.err == f"syncnet.score: error: {tmp_path / 'not there.mp4'} does not exist\n"
    absent, found = json.loads(told.out)
    assert absent["error"] == f"{tmp_path / 'not there.mp4'} does not exist"
    assert (found["video"], found["seconds"], found["speaker"]) == (str(speaker), 3.0, 1)
    whole, span = found["rows"]
    assert whole["whole"]
    assert not span["whole"]
    assert abs(whole["offset"]) <= 1
    assert whole["milliseconds"] == 40 * whole["offset"]
    assert plot.read_bytes().startswith(b"\x89PNG")


# What cannot be scored -----------------------------------------------------------------------------------------------


class Sees:
    """A detector that finds the face in every frame or in none."""

    def __init__(self, faces=1):
        self.faces = faces

    def __call__(self, frames):
        return [[Detection(still_track(1).boxes[0], 0.9)] * self.faces for _ in frames]


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    return write_talk(tmp_path_factory.mktemp("media") / "talk.mp4", swaying_photo(30))


def refusal(path, detector=None):
    with pytest.raises(MediaError) as caught:
        score_video(path, untrained(), detector or Sees())
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "IT")


def test_videos_without_what_is_needed_say_so(tmp_path):
    pictures = swaying_photo(30)
    hush = write_sound(tmp_path / "hush.wav", np.zeros(20000))
    blip = write_sound(tmp_path / "blip.wav", RNG.uniform(-0.5, 0.5, 8000))
    refused = {
        "IT is a photo, not a video": write_photo(tmp_path / "photo.png"),
        "IT has no audio track": write_video(tmp_path / "mute.mp4", pictures),
        "IT is 0.80 s long; at least 1 s is needed": write_talk(tmp_path / "short.mp4", pictures[:20]),
        "IT contains no speech: there is no sync to score": write_video(tmp_path / "silent.mp4", pictures, sound=hush),
        "IT does not exist": tmp_path / "gone.mp4",
    }
    assert {message: refusal(path) for message, path in refused.items()} == {message: message for message in refused}
    assert refusal(write_video(tmp_path / "a.mkv", pictures, sound=blip)).startswith("the audio of IT is 0.5")


def test_a_video_without_a_face_says_so(talk, tmp_path, monkeypatch):
    assert refusal(talk, Sees(0)) == "no face was found in IT"
    monkeypatch.setattr(command, "track_video_faces", lambda *_: [track(30, missing=range(18, 30))])
    assert refusal(talk) == "no face is visible for at least 0.76 s in IT"


def test_a_rate_other_than_25_is_scored_in_frames_of_40_ms(tmp_path):
    with_sound = write_talk(tmp_path / "talk.mp4", swaying_photo(30))
    video = write_video(tmp_path / "fast.mp4", swaying_photo(60), Fraction(50), sound=with_sound)
    score = score_video(video, untrained(), Sees(), max_faces=1)
    assert score.rows[0].score.windows <= 26
    assert score.rows[0].end <= 1.2


def test_wrong_flags_end_in_one_line(talk, tmp_path, capsys):
    for message, flags in {
        "--max-faces must be 1 or more, not 0": ["--max-faces", "0"],
        "the file type of --plot must be one of .png, .pdf, .svg, not a.txt": ["--plot", str(tmp_path / "a.txt")],
        "is not a folder": ["--plot", str(tmp_path / "no" / "a.png")],
        "does not exist": ["--model", str(tmp_path / "no.safetensors")],
        "is not a PyTorch file": ["--model", str(shutil.copy(talk, tmp_path / "a.model"))],
    }.items():
        assert main([str(talk), "--detector", "haar", *flags]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith("syncnet.score: error: ")
        assert told.err.endswith("\n")
        assert told.err.count("\n") == 1
        assert message in told.err


@pytest.mark.parametrize("words", [[], ["a.mp4", "--detector", "x"], ["a.mp4", "--plots", "b.png"]])
def test_unknown_words_end_in_one_line(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert capsys.readouterr().err.count("\n") == 1


def test_without_matplotlib_the_cure_is_named(talk, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main([str(talk), "--plot", str(tmp_path / "a.png")]) == 2
    assert "pip install -r requirements-train.txt" in capsys.readouterr().err
