"""Generated videos of trials: their frames and audio. The network is a stub whose mouth follows the audio level."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation.metrics.face_crops import SIDE, open_source, read_footage
from evaluation.protocols.baselines import freeze_mouth
from evaluation.protocols.generate_videos import VideoMaker, find_video, still_index
from evaluation.protocols.trials import Trial
from evaluation.report.results import BASELINES, COPY, MATCHED, OURS, REAL, SILENT, STATIC, STILLS, SWAPPED, UNSYNCED
from inference.generator.compositing import crop_mask
from inference.generator.engine import ModelOrigin
from preprocessing.errors import MediaError
from tests.inference.stub import StubDetector, loud_mouth, mouth, psnr, stub
from tests.material import (
    BOX,
    moving_photo,
    number_of,
    photo,
    pictures_of,
    sound_of,
    write_generator,
    write_photo,
    write_sound,
    write_talk,
    write_video,
)

TONE = 300.0  # Hz, the other speaker's audio


def tone(seconds: float) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * TONE * np.arange(round(16000 * seconds)) / 16000)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """face.mp4: 40 numbered frames with speech; tone.wav: 1.2 s; mute.mp4: 30 frames without audio."""
    folder = tmp_path_factory.mktemp("media")
    write_talk(folder / "face.mp4", moving_photo(40))
    write_video(folder / "mute.mp4", moving_photo(30))
    write_sound(folder / "tone.wav", tone(1.2))
    return folder


@pytest.fixture
def trials(media) -> dict[str, Trial]:
    face, other = media / "face.mp4", media / "tone.wav"
    own = Trial("a", MATCHED, face, face, "a", "a", face, other, listed=True)
    silent = replace(own, protocol=SILENT, audio=None, audio_speaker="", listed=False)
    stills = replace(own, protocol=STILLS, listed=False)
    return {MATCHED: own, SWAPPED: replace(own, protocol=SWAPPED, audio=other), SILENT: silent, STILLS: stills}


@pytest.fixture
def maker(tmp_path) -> VideoMaker:
    return VideoMaker(tmp_path / "out", StubDetector(), {OURS: stub()}, 1.4, {"box": BOX, "crf": 8})


def is_tone(path: Path) -> bool:
    """Whether the audio is the other speaker's."""
    power = np.abs(np.fft.rfft(sound_of(path))) ** 2
    frequencies = np.fft.rfftfreq(len(sound_of(path)), 1 / 16000)
    return power[np.abs(frequencies - TONE) < 10].sum() > 0.9 * power.sum()


# Audio and length ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "systems"),
    [
        (MATCHED, {REAL: (35, False), UNSYNCED: (30, True), COPY: (35, False), STATIC: (35, False), OURS: (35, False)}),
        (SWAPPED, {REAL: (35, False), UNSYNCED: (30, True), COPY: (30, True), STATIC: (30, True), OURS: (30, True)}),
        (SILENT, {REAL: (35, False)}),
    ],
)
def test_each_system_hears_its_sound_for_as_long_as_all_last(maker, trials, protocol, systems):
    """1.6 s of face, 1.2 s of tone, 1.4 s requested; by system: number of frames, and whether the audio is the tone."""
    for system, (count, toned) in systems.items():
        path = maker.make(trials[protocol], system)
        assert path == maker.out / "videos" / protocol / "a" / f"{system}.mp4"
        assert [number_of(picture) for picture in pictures_of(path)] == list(range(count))
        assert abs(len(sound_of(path)) / 16000 - count / 25) <= 0.04
        assert is_tone(path) == toned
    assert len(read_footage(path, maker.source(trials[protocol].face)).faces) == count


def test_silence_is_silent_and_as_long_as_the_face(maker, trials):
    for system in (COPY, STATIC, OURS):
        path = maker.make(trials[SILENT], system)
        assert len(pictures_of(path)) == 35
        assert abs(len(sound_of(path)) / 16000 - 1.4) <= 0.04
        assert np.abs(sound_of(path)).max() < 1e-4


def test_in_silence_a_mute_video_stays_mute_and_elsewhere_it_is_a_reason(maker, trials, media):
    silent = replace(trials[SILENT], face=media / "mute.mp4", own=media / "mute.mp4")
    assert np.abs(sound_of(maker.make(silent, REAL))).max() < 1e-4
    matched = replace(silent, protocol=MATCHED, audio=media / "mute.mp4")
    for system in (REAL, COPY, OURS):
        assert re.search("has no (sound|audio) track", maker.make(matched, system))


def test_where_there_is_nobody_else_that_is_the_reason(maker, trials):
    reason = maker.make(replace(trials[MATCHED], other=None), UNSYNCED)
    assert reason.startswith("no other speaker's audio for")
    assert maker.make(trials[SILENT], UNSYNCED).startswith("no other")


# Frames --------------------------------------------------------------------------------------------------------------


def test_real_and_unsynced_show_the_face_as_it_is_and_a_generator_does_not(maker, trials):
    for system in (REAL, UNSYNCED):
        made = pictures_of(maker.make(trials[SWAPPED], system))
        assert min(psnr(one, other) for one, other in zip(made, moving_photo(40), strict=False)) > 35
    made = pictures_of(maker.make(trials[SWAPPED], OURS))
    changed = [np.abs(mouth(one) - mouth(two)).mean() for one, two in zip(made, moving_photo(40), strict=False)]
    assert np.mean(changed[5:25]) > 20


def talking(count: int, fps: int = 25) -> list[np.ndarray]:
    """The swaying face with a mouth that opens wider over time."""
    pictures = []
    for index, picture in enumerate(moving_photo(count)):
        x = 83 + 3 * np.sin(index / 4)
        cv2.ellipse(picture, (round(x), 78), (8, 2 + index * 10 // fps), 0, 0, 360, (20, 10, 200), -1)
        pictures.append(picture)
    return pictures


@pytest.mark.parametrize("fps", [25, 30])
def test_a_held_mouth_moves_with_the_head_and_not_by_itself(tmp_path, fps):
    pictures = talking(36 * fps // 25, fps)  # at rates other than 25 fps, positions fall between the source's frames
    source = open_source(write_video(tmp_path / "face.mp4", pictures, Fraction(fps)), StubDetector())
    made = list(freeze_mouth(iter(pictures), Fraction(fps), source))
    assert len(made) == len(pictures)
    inside = crop_mask("points", SIDE) > 0.98
    step, count = fps / 25, len(source.faces)
    maps = source.crop_matrices(160, 160)
    seen = [cv2.warpAffine(made[round(k * step)], maps[k], (SIDE, SIDE)) for k in range(count)]
    real = [cv2.warpAffine(pictures[round(k * step)], maps[k], (SIDE, SIDE)) for k in range(count)]
    still = [np.abs(picture.astype(float) - seen[0])[inside].mean() for picture in seen]
    moved = [np.abs(picture.astype(float) - real[0])[inside].mean() for picture in real]
    assert max(still) < 2.0
    assert max(still[count // 2 :]) < min(moved[count // 2 :]) / 2
    untouched = np.abs(np.array(made[-1], float) - pictures[-1]).max(axis=2)
    assert (untouched[:30] == 0).all()
    assert (untouched[:, :40] == 0).all()


def test_pictures_beside_the_run_stay_as_they_are(tmp_path):
    pictures = moving_photo(45)
    for picture in (*pictures[:8], *pictures[40:]):
        picture[:16, -16:] = 255  # hides the face from the detector
    source = open_source(write_video(tmp_path / "face.mp4", pictures), StubDetector())
    assert source.start > 0
    assert source.start + len(source.track) < 45
    made = list(freeze_mouth(iter(pictures), Fraction(25), source))
    same = [bool((one == other).all()) for one, other in zip(made, pictures, strict=True)]
    end = source.start + len(source.track)
    assert all(same[: source.start] + same[end:])
    assert not any(same[source.start + 1 : end])


def test_faces_are_brought_to_one_rate_for_all_systems_alike(tmp_path, media, trials):
    """12 frames in 1.2 s at 10 fps: at 25 fps each is repeated two or three times."""
    write_video(tmp_path / "slow.mp4", moving_photo(12), Fraction(10))
    trial = replace(trials[SWAPPED], face=tmp_path / "slow.mp4")
    maker = VideoMaker(tmp_path / "out", StubDetector(), {OURS: stub()}, 1.4, {"box": BOX, "crf": 8}, 25)
    real, ours = (pictures_of(maker.make(trial, system)) for system in (COPY, OURS))
    numbers = [number_of(picture) for picture in real]
    assert numbers == [number_of(picture) for picture in ours]
    assert numbers == sorted(numbers)
    assert (len(numbers), {numbers.count(number) for number in range(12)}) == (30, {2, 3})
    assert psnr(real[-1], moving_photo(12)[-1]) > 35


# Stills --------------------------------------------------------------------------------------------------------------


def test_two_stills_speak_the_same_sound(maker, trials):
    one, other = (maker.make(trials[STILLS], OURS, still) for still in "ab")
    assert (one.name, other.name) == ("ours-a.mp4", "ours-b.mp4")
    for path, number in ((one, 8), (other, 26)):  # of the run's 35 frames
        pictures = pictures_of(path)
        assert {number_of(picture) for picture in pictures} == {number}
        assert len(pictures) == 35
        assert abs(len(sound_of(path)) / 16000 - 1.4) <= 0.04
    assert (still_index(35, "a"), still_index(35, "b")) == (8, 26)


# Reuse ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def counting(maker, media) -> list[int]:
    """Sizes of the batches run so far by a generator of known origin, which replaces the maker's."""
    calls = []

    def run(mel: np.ndarray, faces: np.ndarray) -> np.ndarray:
        calls.append(len(faces))
        return loud_mouth(mel, faces)

    maker.models[OURS] = stub(run)
    maker.models[OURS].engine.origin = ModelOrigin(
        write_generator(maker.out.parent / "generator.safetensors"), "cpu", "stub"
    )
    return calls


def test_a_video_is_taken_again_only_if_it_is_whole_and_of_the_same_inputs(maker, trials, counting):
    path = maker.make(trials[SWAPPED], OURS)
    assert counting

    def again(other: VideoMaker = maker) -> bool:
        """Whether the video is generated again."""
        before = len(counting)
        assert other.make(trials[SWAPPED], OURS) == path
        return len(counting) > before

    def like(**changes: object) -> VideoMaker:
        values = {"out": maker.out, "seconds": 1.4, "options": maker.options} | changes
        return VideoMaker(detector=StubDetector(), models=maker.models, **values)

    assert not again(like())
    assert again(like(seconds=1.1))
    assert again(like(options={"box": BOX, "crf": 30}))
    path.write_bytes(path.read_bytes()[:-100])
    assert again()
    assert not again()
    path.with_suffix(".json").write_text("{")
    assert again()
    write_generator(maker.models[OURS].engine.origin.checkpoint, width=4)
    assert again(like())
    assert {file.suffix for file in path.parent.iterdir()} == {".mp4", ".json"}
    assert json.loads(path.with_suffix(".json").read_text())["made"]["system"] == OURS


def test_a_generator_of_unknown_origin_is_never_the_same(maker, trials):
    assert maker._recipe(trials[MATCHED], OURS, "") != maker._recipe(trials[MATCHED], OURS, "")
    assert maker._recipe(trials[MATCHED], COPY, "") == maker._recipe(trials[MATCHED], COPY, "")


# Errors --------------------------------------------------------------------------------------------------------------


def test_bad_inputs_are_reasons_in_one_line(maker, trials, tmp_path):
    write_photo(tmp_path / "photo.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    write_talk(tmp_path / "short.mp4", [photo()] * 10)
    plain = np.full((160, 160, 3), 90, np.uint8)
    plain[:16, -16:] = 255
    write_talk(tmp_path / "plain.mp4", [plain] * 30)
    for name, message in (("photo", "is a photo"), ("text", "damaged"), ("short", "at least 1 s"),
                       ("plain", "no face in"), ("absent", "does not exist")):  # fmt: skip
        face = tmp_path / f"{name}.mp4"
        trial = replace(trials[MATCHED], pair=name, face=face, audio=face, own=face)
        for system in (REAL, OURS):
            reason = maker.make(trial, system)
            assert isinstance(reason, str)
            assert message in reason
            assert "\n" not in reason
        assert not any((maker.out / "videos" / MATCHED).rglob("*.mp4"))
    assert "does not exist" in maker.make(replace(trials[SWAPPED], audio=tmp_path / "absent.wav"), OURS)


def test_a_disk_that_cannot_be_written_is_a_reason_and_an_interrupt_is_not(maker, trials, monkeypatch):
    maker.out.write_text("a file")
    assert "Not a directory" in maker.make(trials[MATCHED], REAL)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(maker, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        maker.make(trials[MATCHED], REAL)


def test_an_input_is_not_written_over(maker, trials):
    path = maker.out / "videos" / MATCHED / "a" / "real.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(trials[MATCHED].face.read_bytes())
    before = path.read_bytes()
    trial = replace(trials[MATCHED], face=path, audio=path, own=path)
    assert "is also an input" in maker.make(trial, REAL)
    assert path.read_bytes() == before


def test_a_source_is_opened_once(maker, trials, monkeypatch):
    initial = maker.detector.frames_seen
    maker.make(trials[MATCHED], REAL)
    seen = maker.detector.frames_seen
    assert seen > initial
    maker.make(trials[SILENT], STATIC)
    assert maker.detector.frames_seen == seen
    for _ in range(2):
        with pytest.raises(MediaError, match="does not exist"):
            maker.source(Path("absent.mp4"))


@pytest.mark.parametrize("name", [*BASELINES, "a b", "../x", "", "CON"])
def test_names_that_a_generator_cannot_have(tmp_path, name):
    with pytest.raises(ValueError, match="invalid generator name"):
        VideoMaker(tmp_path, StubDetector(), {name: stub()})


def test_settings_that_cannot_be(tmp_path):
    for seconds in (0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be 1 or more"):
            VideoMaker(tmp_path, StubDetector(), seconds=seconds)
    with pytest.raises(ValueError, match="blend must be one of"):
        VideoMaker(tmp_path, StubDetector(), options={"blend": "glue"})


# Existing videos -----------------------------------------------------------------------------------------------------


def test_made_videos_are_found_by_protocol_and_name(tmp_path, trials):
    def put(*parts: str) -> Path:
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    assert find_video(tmp_path, trials[MATCHED]) is None
    plain = put("a.mp4")
    assert find_video(tmp_path, trials[MATCHED]) == plain
    assert find_video(tmp_path, replace(trials[SWAPPED], listed=False)) is None
    assert find_video(tmp_path, trials[SILENT]) is None
    assert find_video(tmp_path, trials[STILLS], "a") is None
    wanted = put(MATCHED, "a.mp4")
    assert find_video(tmp_path, trials[MATCHED]) == wanted
    still = put(STILLS, "a-b.mp4")
    assert find_video(tmp_path, trials[STILLS], "b") == still
