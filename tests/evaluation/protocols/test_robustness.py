"""Hard inputs have the intended properties, and incomplete videos are detected."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from evaluation.protocols.robustness import main, run_stress, table
from evaluation.protocols.stress import (
    GAP,
    ODD,
    SCENE,
    SECONDS,
    SMALL,
    TURN,
    WIDE,
    HardInput,
    StressSubject,
    cuts,
    dark,
    gaps,
    make_hard_inputs,
    music,
    occluded,
    profile,
    read_hard_inputs,
    slow,
    small,
    two_people,
)
from evaluation.protocols.validity import check_video, frame_fault, level
from evaluation.report.results import StressResult
from inference.files.face_source import FaceSource
from preprocessing.errors import MediaError
from preprocessing.faces.face_track import Detection, estimate_points
from preprocessing.media.video_reader import probe
from tests.material import (
    BOX,
    SIDE,
    moving_photo,
    photo,
    pictures_of,
    sound_of,
    write_generator,
    write_photo,
    write_sound,
    write_speech,
    write_talk,
    write_video,
)

COUNT = 40
TOP, BOTTOM, LEFT, RIGHT = BOX


def _person(shade: int = 0, width: int = SIDE, count: int = COUNT) -> StressSubject:
    pictures = np.stack([photo()[:, :width] // 2 + shade] * count)
    return StressSubject(pictures, np.tile([LEFT, TOP, RIGHT, BOTTOM], (count, 1)), np.tile([72.0, 75.0], (count, 1)))


# Hard inputs ---------------------------------------------------------------------------------------------------------


def test_the_small_face_is_24_pixels_high() -> None:
    wide = small(_person(count=2))
    assert wide.shape == (2, WIDE[1], WIDE[0], 3)
    scale = SMALL / (BOTTOM - TOP)
    side = round(SIDE * scale)
    sharp = [np.abs(np.diff(row.astype(int), axis=0)).max(axis=(1, 2)) > 8 for row in (wide[0], wide[0].swapaxes(0, 1))]
    spans = [np.flatnonzero(row)[-1] - np.flatnonzero(row)[0] for row in sharp]
    assert spans == pytest.approx([side, side], abs=3), "all that is sharp is the picture, reduced"


def test_the_dark_has_at_most_a_quarter_of_the_light() -> None:
    person = _person(count=3)
    made = dark(person)
    assert made.mean() < person.frames.mean() / 4
    assert made.std() > 1, "something is left to be seen"
    assert (made[0] != made[1]).any(), "the noise of a sensor is never the same"
    np.testing.assert_array_equal(made, dark(person))


def test_the_turn_leaves_its_axis_and_squeezes_its_sides() -> None:
    person, far = _person(), 1.2 * SIDE
    person.frames[:] = np.arange(SIDE, dtype=np.uint8)[None, None, :, None]  # each pixel encodes its column
    made = profile(person)[0, 75, :, 0].astype(float)
    assert made[72] == pytest.approx(72, abs=1)
    for distance in (-30, 30):
        x = far * distance * np.cos(TURN) / (far + distance * np.sin(TURN))
        assert made[round(72 + x)] == pytest.approx(72 + distance, abs=2)


def test_the_bar_hides_the_mouth_and_passes() -> None:
    person = _person()
    made = occluded(person)
    assert (made[0, 75, 72] == (96, 104, 112)).all()
    np.testing.assert_array_equal(made[6, 75, 72], person.frames[6, 75, 72])
    assert (person.frames[0] != made[0]).any(axis=2).mean() < 0.2


def test_gaps_are_plain_and_at_the_beginning_and_in_the_middle() -> None:
    plain = gaps(_person()).std(axis=(1, 2, 3)) == 0
    expected = [*range(GAP), *range(COUNT // 2, COUNT // 2 + GAP)]
    assert np.flatnonzero(plain).tolist() == expected


def test_cuts_alternate_between_two_people() -> None:
    one, other = _person(), _person(100)
    scenes = cuts(one, other).mean(axis=(1, 2, 3)) > 100
    assert scenes.tolist() == [index // SCENE % 2 == 1 for index in range(COUNT)]


def test_two_people_stand_side_by_side() -> None:
    one, other = _person(), _person(100, width=80)
    both = two_people(one, other)
    assert both.shape == (COUNT, SIDE, SIDE + 80, 3)
    np.testing.assert_array_equal(both[:, :, :SIDE], one.frames)
    np.testing.assert_array_equal(both[:, :, SIDE:], other.frames)


def test_15_frames_a_second_are_every_five_thirds_of_25() -> None:
    person = _person()
    person.frames[:] = np.arange(COUNT, dtype=np.uint8)[:, None, None, None]
    made = slow(person)
    assert made.shape == (24, ODD[1], ODD[0], 3)
    assert made[:7, 0, 0, 0].tolist() == [0, 1, 3, 5, 6, 8, 10]


def test_music_is_loud_has_beats_and_is_the_same_again() -> None:
    sound = music(2)
    assert len(sound) == 2 * 16000
    assert np.abs(sound).max() <= 1
    assert level(sound) > -20
    beats = [
        level(sound[k * 8000 : k * 8000 + 1600]) - level(sound[k * 8000 + 6000 : k * 8000 + 8000]) for k in range(4)
    ]
    assert min(beats) > 6
    np.testing.assert_array_equal(sound, music(2))


def _detector(frames: list[np.ndarray]) -> list[list[Detection]]:
    box = np.array([LEFT, TOP, RIGHT, BOTTOM], np.float32)
    return [[Detection(box, 0.9, estimate_points(box))] for _ in frames]


def test_all_kinds_are_made_and_can_be_read(tmp_path: Path) -> None:
    talk = write_talk(tmp_path / "a talk.mp4", moving_photo(30))
    inputs_ = make_hard_inputs(talk, talk, talk, tmp_path / "hard", _detector)
    assert [hard.kind for hard in inputs_][:13] == [
        "profile", "small", "dark", "occluded", "gaps", "slow-odd", "rolled", "cut off", "cuts", "two-people", "photo",
        "silence", "music"
    ]  # fmt: skip
    infos = {hard.kind: probe(hard.face) for hard in inputs_}
    slow_odd = infos["slow-odd"]
    assert (slow_odd.width, slow_odd.height, slow_odd.native_fps) == (ODD[0] + 1, ODD[1] + 1, 15)
    assert {"mirrored", "joined capture", "odd size", "9 channels"} <= infos.keys()
    assert (infos["mirrored"].mirrored, infos["odd size"].width % 2, infos["240 fps"].fps) == (True, 1, 60)
    assert infos["joined capture"].duration > 1.9
    assert infos["photo"].is_image
    assert infos["AVIF"].is_image
    sizes = {frame.shape[1] for frame in pictures_of(tmp_path / "hard" / "size_change.ts")}
    assert len(sizes) == 2
    assert infos["cut off"].width < infos["dark"].width
    tracks = next(hard.audio for hard in inputs_ if hard.kind == "two audio tracks")
    with av.open(str(tracks)) as container:
        assert [bool(track.disposition & 1) for track in container.streams.audio] == [False, True]
    sounds = {hard.kind: sound_of(hard.audio) for hard in inputs_ if hard.kind in ("silence", "music", "dark")}
    assert not sounds["silence"].any()
    assert len(sounds["music"]) == SECONDS * 16000
    assert len(sounds["dark"]) == pytest.approx(30 * 640, abs=1024), "no longer than the sound"


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text('kind,face,audio\nfog,"a, b.mp4",c.wav\n')
    assert read_hard_inputs(tmp_path / "mine.csv") == [HardInput("fog", tmp_path / "a, b.mp4", tmp_path / "c.wav")]


@pytest.mark.parametrize(
    ("text", "words"),
    [("kind,face\nfog,a", "missing column audio"), ("kind,face,audio\nfog,,c", ":2: face is empty"),
     ("kind,face,audio\n", "has no inputs")],
)  # fmt: skip
def test_a_wrong_list_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_hard_inputs(tmp_path / "mine.csv")


# Validity ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face video of 20 frames, a photo, 0.8 s of speech, and a video of that face and speech."""
    folder = tmp_path_factory.mktemp("inputs")
    write_video(folder / "face.mp4", moving_photo(20))
    write_photo(folder / "photo.png")
    speech = write_speech(folder / "speech.wav", 0.8)
    write_video(folder / "made.mp4", moving_photo(20), sound=speech)
    return folder


def _check(video: Path, inputs: Path, face: str = "face.mp4") -> str:
    return check_video(video, inputs / face, inputs / "speech.wav")


def test_a_whole_video_has_no_fault(inputs: Path, tmp_path: Path) -> None:
    assert _check(inputs / "made.mp4", inputs) == ""
    still = write_video(tmp_path / "still.mp4", [photo()] * 20, sound=inputs / "speech.wav")
    assert _check(still, inputs, "photo.png") == ""


def test_a_longer_sound_plays_the_face_back_and_forth(inputs: Path, tmp_path: Path) -> None:
    pictures, speech = moving_photo(20), write_speech(tmp_path / "long.wav", 1.4)
    bounced = [*pictures, *pictures[18:3:-1]]
    assert check_video(
        write_video(tmp_path / "made.mp4", bounced[:35], sound=speech), inputs / "face.mp4", speech) == ""  # fmt: skip


def test_a_reader_that_turns_pictures_over_is_found_out(inputs: Path, tmp_path: Path, monkeypatch) -> None:
    """The frames are right for our reader, if it reads both files so; the ffmpeg program knows better."""
    made = write_video(
        tmp_path / "made.mp4", [picture[::-1].copy() for picture in moving_photo(20)], sound=inputs / "speech.wav"
    )
    play = FaceSource.play
    monkeypatch.setattr(FaceSource, "play", lambda *given: ((number, frame[::-1]) for number, frame in play(*given)))
    assert _check(made, inputs) == "ffmpeg shows other pictures in it than in the face video"


Made = Callable[[Path, Path], Path]


def _with(path: Path, inputs: Path, pictures: list[np.ndarray], fps: int = 25, sound: str = "speech.wav") -> Path:
    return write_video(path, pictures, Fraction(fps), sound=inputs / sound if sound else None)


def _painted(index: int, rows: slice, columns: slice, value: int) -> list[np.ndarray]:
    pictures = moving_photo(20)
    pictures[index][rows, columns] = value
    return pictures


FAULTS: dict[str, Made] = {
    "16 frames": lambda path, inputs: _with(path, inputs, moving_photo(16)),
    "size is 120x160": lambda path, inputs: _with(path, inputs, [p[:, :120].copy() for p in moving_photo(20)]),
    "rate is 30 fps": lambda path, inputs: _with(path, inputs, moving_photo(24), fps=30),
    "no audio track": lambda path, inputs: _with(path, inputs, moving_photo(20), sound=""),
    "frame 7 is blank": lambda path, inputs: _with(path, inputs, _painted(7, slice(None), slice(None), 0)),
    "frame 5 has a black": lambda path, inputs: _with(path, inputs, _painted(5, slice(60, 100), slice(50, 90), 0)),
    "does not match the face video": lambda path, inputs: _with(path, inputs, [255 - p for p in moving_photo(20)]),
    "dB": lambda path, inputs: _with(path, inputs, moving_photo(20), sound=_quiet(inputs)),
    "audio lasts": lambda path, inputs: _with(path, inputs, moving_photo(20), sound=_short(inputs)),
}


def _quiet(inputs: Path) -> str:
    return write_sound(inputs / "quiet.wav", sound_of(inputs / "speech.wav") / 4).name


def _short(inputs: Path) -> str:
    return write_sound(inputs / "short.wav", sound_of(inputs / "speech.wav")[: 16000 // 2]).name


@pytest.mark.parametrize("words", FAULTS)
def test_what_is_wrong_is_said(inputs: Path, tmp_path: Path, words: str) -> None:
    assert words in _check(FAULTS[words](tmp_path / "made.mp4", inputs), inputs)


def test_damaged_files_are_not_whole(inputs: Path, tmp_path: Path) -> None:
    whole = (inputs / "made.mp4").read_bytes()
    start = whole.index(b"mdat") + 4
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 2000, np.uint8).tobytes()
    moov, mdat = whole.index(b"moov") - 4, whole.index(b"mdat") - 4
    damaged = {
        "gone.mp4": None, "empty.mp4": b"", "cut.mp4": whole[: len(whole) // 2],
        "holes.mp4": whole[: start + 3000] + noise + whole[start + 5000 :],
        "behind.mp4": whole[:moov] + whole[mdat:] + whole[moov:mdat],
    }  # fmt: skip
    for name, data in damaged.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        reason = _check(tmp_path / name, inputs)
        assert reason, name
        assert "\n" not in reason
    assert "index after" in _check(tmp_path / "behind.mp4", inputs)


def test_a_patch_counts_only_where_the_face_has_none() -> None:
    given = np.full((64, 64, 3), 120, np.uint8) + np.arange(64, dtype=np.uint8)[None, :, None]
    made = given.copy()
    made[30:40, 30:40] = 0
    assert "patch" in frame_fault(made, given)
    assert frame_fault(made, made) == ""
    lips = given.copy()
    lips[30:40, 30:40] -= 60  # repainted, but neither black nor white
    lips[34:36, 32:38] = 0  # the inside of a mouth
    assert frame_fault(lips, given) == ""
    assert "blank" in frame_fault(np.zeros_like(given), given)
    assert frame_fault(np.zeros_like(given), np.zeros_like(given)) == ""


def test_levels_are_decibels_under_full_scale() -> None:
    assert level(np.sin(np.arange(16000) * 0.1) / 2) == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert level(np.ones(10)) == 0
    assert level(np.zeros(10)) == level(np.zeros(0)) == -100


# Trials --------------------------------------------------------------------------------------------------------------


def test_every_failure_is_a_trial_that_did_not_pass(inputs: Path, tmp_path: Path) -> None:
    def good(face: Path, audio: Path, outfile: Path, **options: object) -> None:
        assert options == {"detector": "haar"}
        write_video(outfile, pictures_of(face), sound=audio)

    def bad(face: Path, audio: Path, outfile: Path, **_: object) -> None:
        write_video(outfile, pictures_of(face)[:3], sound=audio)

    def refusing(*_: object, **__: object) -> None:
        raise MediaError("it shows no face\nat all")

    def broken(*_: object, **__: object) -> None:
        raise IndexError("index 3 is out of bounds")

    inputs_ = [HardInput("f<o>g", inputs / "face.mp4", inputs / "speech.wav")] * 2
    systems = {"good": good, "bad": bad, "refusing": refusing, "broken": broken}
    trials = run_stress(inputs_, systems, tmp_path, detector="haar")  # type: ignore[arg-type]
    assert [trial.passed for trial in trials] == [True, False, False, False] * 2
    assert [trial.video for trial in trials[::4]] == ["videos/stress/f_o_g/good.mp4", "videos/stress/f_o_g-2/good.mp4"]
    assert "frames" in trials[1].reason
    assert trials[2] == StressResult("f<o>g", "refusing", False, "it shows no face at all")
    assert trials[3].reason == "IndexError: index 3 is out of bounds"
    text = table(trials)
    assert "| **complete and valid** | 2 of 2 | 0 of 2 | 0 of 2 | 0 of 2 |" in text


def test_ctrl_c_ends_it(inputs: Path, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stress([HardInput("a", inputs / "face.mp4", inputs / "speech.wav")], {"x": interrupted}, tmp_path)  # type: ignore[dict-item]


def test_the_command_tries_a_list(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.csv").write_text("kind,face,audio\nnothing,none.mp4,none.wav\n")
    model = write_generator(tmp_path / "tiny.safetensors")
    flags = ["--list", str(tmp_path / "mine.csv"), "--out", str(tmp_path), "--checkpoint", str(model)]
    flags += ["--detector", "haar"]
    assert main(flags) == 1
    assert "none.mp4 does not exist" in capsys.readouterr().out
    (trial,) = json.loads((tmp_path / "robustness.json").read_text())
    assert not trial["passed"]


def test_wrong_flags_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for flags in (
        [],
        ["--face", "a.mp4"],
        ["--list", "a.csv", "--face", "a.mp4"],
        ["--list", str(tmp_path / "no.csv")],
    ):
        assert main([*flags, "--out", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
