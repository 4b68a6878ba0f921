"""Validation of a judge: degradations, planted shifts and their statistics."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from evaluation.judge.command import expand_folders, judge_all, main, pick_other
from evaluation.judge.degradation import degradations
from evaluation.judge.judge_report import (
    ANOTHER,
    AS_IT_IS,
    JudgeFindings,
    JudgeScore,
    percent,
    plain,
    summary,
    tables,
)
from evaluation.judge.validation import DELAYS, PLANTED, SyncJudge, delay, validate
from evaluation.metrics.face_crops import SIDE, SourceVideo
from evaluation.metrics.statistics import interval
from preprocessing.errors import MediaError
from preprocessing.media.video_reader import VideoInfo
from syncnet.offset import REACH
from syncnet.scoring.lse import lse_distances
from tests.material import SIDE as WIDTH
from tests.material import still_track, swaying_photo, write_talk, write_video

FRAMES = 80
NOTHING = np.zeros(0, np.int16)


# Frames --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "pixels"), [(1.0, 2), (2.0, 4)])
def test_a_moved_crop_shows_the_same_right_and_below(scale: float, pixels: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    moved = degradations()["crop moved by 2 px"](pictures, scale)
    np.testing.assert_array_equal(moved[:, pixels:, pixels:], pictures[:, :-pixels, :-pixels])


@pytest.mark.parametrize(("part", "scale", "block"), [(2, 1.0, 2), (4, 1.0, 4), (2, 2.0, 4)])
def test_what_is_finer_than_the_resolution_becomes_its_mean(part: int, scale: float, block: int) -> None:
    rows, columns = np.indices((32, 32))
    fine = np.where((rows + columns) % 2, 200, 100).astype(np.uint8)  # a chequerboard of single pixels
    coarse = np.where((rows // block + columns // block) % 2, 200, 100).astype(np.uint8)
    change = degradations()[f"1/{part} of the resolution"]
    np.testing.assert_array_equal(change(np.repeat(fine[None, ..., None], 3, axis=3), scale), 150)
    kept = change(np.repeat(coarse[None, ..., None], 3, axis=3), scale)
    assert (kept.min(), kept.max()) == (100, 200)


def test_the_blur_has_its_sigma() -> None:
    picture = np.zeros((1, 65, 65, 3), np.uint8)
    picture[:, :, 32:] = 250  # an edge, whose blurred slope is 250 / (sigma sqrt(2 pi))
    for name, scale, sigma in (("blur, sigma 2 px", 1.0, 2), ("blur, sigma 4 px", 0.5, 2), ("blur, sigma 4 px", 1, 4)):
        slope = np.diff(degradations()[name](picture, scale)[0, 32, :, 0].astype(int)).max()
        assert slope == pytest.approx(250 / (sigma * np.sqrt(2 * np.pi)), abs=1.5)  # levels are integers


def test_every_step_of_a_kind_is_worse() -> None:
    faces = np.stack([np.asarray(face)[16:144, 16:144] for face in swaying_photo(2)])
    worse = {name: np.abs(change(faces, 1.0).astype(int) - faces).mean() for name, change in degradations().items()}
    for kind in ("blur", "JPEG", "crop", "1/"):
        steps = [value for name, value in worse.items() if name.startswith(kind)]
        assert len(steps) >= 2
        assert steps[0] > 0
        assert steps == sorted(steps)


# Audio ---------------------------------------------------------------------------------------------------------------


def test_a_late_sound_begins_with_silence_and_is_as_long() -> None:
    samples = np.arange(1, 4 * 640 + 1, dtype=np.int16)
    assert delay(samples, 0).tolist() == samples.tolist()
    assert delay(samples, 1).tolist() == [0] * 640 + samples[:-640].tolist()
    assert delay(samples, -2).tolist() == samples[1280:].tolist() + [0] * 1280
    assert not delay(samples, 9).any()
    assert not delay(samples, -9).any()
    assert len(delay(samples, 9)) == len(samples)


def test_whose_sound_is_put_under_a_video() -> None:
    videos = [Path(name) for name in ("a__1.mp4", "a__2.mp4", "b__1.mp4", "a__3.mp4")]
    assert pick_other(videos, 0) == videos[2]
    assert pick_other(videos, 1) == videos[2], "half the list farther on is the same speaker"
    assert pick_other(videos, 2) == videos[0]
    assert pick_other(videos[:2], 0) == videos[1], "there is no other video"
    assert pick_other(videos[:1], 0) is None


# One video -----------------------------------------------------------------------------------------------------------


@dataclass
class Bright:
    """A judge that matches the brightness of a frame with its audio level."""

    def window_count(self, frames: int) -> int:
        return frames - 4

    def crop_params(self, track) -> np.ndarray:
        return np.tile([80.0, 80.0, 40.0], (len(track), 1))

    def crop(self, frame: np.ndarray, place: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(frame[40:120, 40:120])

    def embed(self, faces: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(faces.mean((1, 2, 3)) / 255, 5, axis=0).astype(np.float32)

    def compare(self, video: np.ndarray, start: int, run: tuple[int, int], samples: np.ndarray) -> np.ndarray:
        level = np.abs(samples[: len(samples) // 640 * 640].reshape(-1, 640)).mean(1) / 16000
        level = np.pad(level, REACH + 5, constant_values=9)  # no audio outside
        sounds = np.lib.stride_tricks.sliding_window_view(level[start + 5 :], 5)[: len(video) + 2 * REACH]
        return lse_distances(video, sounds.astype(np.float32))

    def scored_windows(self, flags: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return (starts >= 15) & (starts < FRAMES - 25)  # all compared audio lies inside


def _curve(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.9, FRAMES)


def _sound(levels: np.ndarray) -> np.ndarray:
    return np.tile([16000, -16000], len(levels) * 320) * np.repeat(levels, 640)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceVideo:
    """A video whose audio level follows the brightness of its frames, delayed by two frames."""
    path, levels = tmp_path_factory.mktemp("talk") / "bright.mp4", _curve(1)
    write_video(path, [np.full((WIDTH, WIDTH, 3), round(255 * level), np.uint8) for level in levels])
    info = VideoInfo(width=WIDTH, height=WIDTH, fps=Fraction(25), duration=FRAMES / 25, has_audio=True)
    samples = delay(_sound(levels).astype(np.int16), 2)
    return SourceVideo(path, info, 0, still_track(FRAMES), np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8), samples)


@pytest.fixture(scope="module")
def findings(source: SourceVideo) -> JudgeFindings:
    return validate(SyncJudge("bright", Bright()), source, _sound(_curve(2)).astype(np.int16))


def test_offsets_are_found_as_they_are_and_as_they_were_planted(findings: JudgeFindings) -> None:
    assert findings.own == -2
    assert {shift: score.offset for shift, score in findings.planted.items()} == {s: -2 - s for s in PLANTED}
    assert findings.found(findings.own) == 1
    assert findings.found(0) == 0, "two frames are more than one"
    assert findings.found(-1) == 1


def test_the_ladder_tells_what_a_judge_sees(findings: JudgeFindings) -> None:
    own = findings.changed[AS_IT_IS]
    assert own.near == pytest.approx(own.curve[REACH + 2])
    assert own.near < 0.05
    for shift in DELAYS:
        score = findings.changed[f"sound {shift} frame{'s' * (shift > 1)} late"]
        assert score.offset == -2 - shift
        assert score.near > 0.3
        assert score.confidence == pytest.approx(own.confidence, abs=0.1), "the confidence is blind to it"
    assert findings.changed[ANOTHER].near > 0.3
    assert findings.changed[ANOTHER].confidence < own.confidence / 2
    for name in degradations():  # this judge sees only brightness
        assert findings.changed[name].offset == -2
        assert findings.changed[name].near == pytest.approx(own.near, abs=0.05)


def test_pixels_of_another_square_are_counted_in_those_of_a_points_crop(source: SourceVideo) -> None:
    pictures, scale = SyncJudge("bright", Bright()).crop(source)
    assert pictures.shape == (FRAMES, 80, 80, 3)
    matrix = source.crop_matrices(WIDTH, WIDTH)[0, :, :2]
    shown_across = 2 * 1.4 * 40  # video pixels: half a side of 40 with a margin of 0.4
    assert scale == pytest.approx(80 / shown_across / np.sqrt(np.linalg.det(matrix)))


@pytest.mark.parametrize(
    ("samples", "words"), [(NOTHING, "less than 1 s"), (np.zeros(FRAMES * 640, np.int16), "no speech")]
)
def test_what_cannot_be_judged_is_named(source: SourceVideo, samples: np.ndarray, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        validate(SyncJudge("bright", Bright()), SourceVideo(**vars(source) | {"samples": samples}), NOTHING)


# Figures and tables --------------------------------------------------------------------------------------------------


def _score(offset: int, confidence: float = 0.5, near: float = 0.4) -> JudgeScore:
    return JudgeScore(offset, confidence, near, np.full(31, near))


def _findings(name: str, own: int, frames: int = 75, wrong: int = 0) -> JudgeFindings:
    """The first `wrong` planted shifts are missed."""
    planted = {s: _score(own - s if at >= wrong else own - s + 5) for at, s in enumerate(PLANTED)}
    changed = {AS_IT_IS: _score(own), "blur": _score(own, 0.3, 0.6)}
    return JudgeFindings(Path(name), frames, planted, changed)


def test_shares_are_means_over_videos() -> None:
    some = [_findings("a.mp4", 0), _findings("b.mp4", 1, wrong=5), _findings("c.mp4", -4), _findings("d.mp4", 0, 74)]
    shares = summary(some)["shares"]
    assert shares["all"]["videos"] == 4
    assert shares["all"]["within_1"]["mean"] == 3 / 4
    assert shares["long"]["videos"] == 3
    assert shares["long"]["within_1"]["mean"] == pytest.approx(2 / 3)
    assert shares["long"]["planted_from_own"]["mean"] == pytest.approx((1 + 15 / 20 + 1) / 3)
    assert shares["long"]["planted_from_zero"]["mean"] == pytest.approx((1 + 15 / 20 + 0) / 3)
    json.dumps(summary(some), allow_nan=False)


def test_shifts_beyond_the_reach_are_not_counted() -> None:
    far = _findings("a.mp4", 12, wrong=7)  # -10 .. -4 are missed; those up to -4 lie beyond 15 anyway
    assert far.found(12) == 1
    assert far.found(12, [-10]) is None


def test_the_tables_say_how_much_was_lost() -> None:
    text = tables([_findings("a.mp4", 0), _findings("b.mp4", 3)], cosine=True)
    assert "| 3 s or more | 2 | 50.0 [0, 100] | 0.500 [0.500, 0.500] | 0×1 3×1 |" in text
    assert "| blur | 2 | 0.400 | -0.200 [-0.200, -0.200] | 0.300 | -0.200 [-0.200, -0.200] | 50.0" in text
    assert "| **all shifts, all** | 2 | 50.0 [0, 100] | 100.0 [100, 100] |" in text
    assert "| distance at its own offset |" in tables([_findings("a.mp4", 0)], cosine=False).replace("videos ", "")


def test_a_figure_without_an_interval_stands_alone() -> None:
    assert percent(interval([0.5])) == "50.0"
    assert plain(interval([0.5]), "+.2f") == "+0.50"
    assert percent(None) == plain(None) == "–"


# Command line --------------------------------------------------------------------------------------------------------


def test_the_command_judges_what_it_can_and_names_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    talk = write_talk(tmp_path / "talk <b>.mp4", swaying_photo(30))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    code = main([str(talk), str(text), "--detector", "haar", "--json", str(tmp_path / "found.json")])
    captured = capsys.readouterr()
    assert code == 1
    assert captured.err.count("skipped") == 1
    assert "text.mp4 is not a readable video" in captured.err
    assert "1 videos, 1 skipped" in captured.out
    assert "| **all shifts, all** | 1 |" in captured.out
    found = json.loads((tmp_path / "found.json").read_text())
    (video,) = found["judges"]["judge"]["videos"]
    assert video["video"] == talk.name
    assert set(video["changed"]) >= {AS_IT_IS, *degradations()}
    assert len(found["left_out"]) == 1


def test_wrong_flags_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for flags in ([str(tmp_path)], ["a.mp4", "--seconds", "0"], ["a.mp4", "--judge", str(tmp_path / "none")]):
        assert main(flags) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main([])


def test_a_folder_stands_for_its_videos(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    names = ["b.mp4", "below/a.mp4"]
    for name in [*names, "list.txt"]:
        (tmp_path / name).touch()
    assert expand_folders([tmp_path, Path("c.mp4")]) == [tmp_path / "b.mp4", tmp_path / "below/a.mp4", Path("c.mp4")]


def test_real_talk_is_judged_within_a_frame(shared: Path) -> None:
    from preprocessing.faces.detectors import load_detector
    from syncnet.scoring.video_scoring import ExpertScorer
    from syncnet.sync_expert import JUDGE, SyncExpert

    detector = load_detector("yunet", yunet=shared / "weights" / "face_detection_yunet_2026may.onnx")
    clip = shared / "data" / "val" / "grid_s2__pwij3p.mp4"
    found, reasons = judge_all([SyncJudge("judge", ExpertScorer(SyncExpert.load(JUDGE)))], [clip], detector, 2)
    assert not reasons
    (findings,) = found["judge"]
    assert findings.frames == 50
    assert abs(findings.own) <= 1
    assert findings.found(findings.own) == 1
    assert ANOTHER not in findings.changed, "there is no other video"
