"""Output of whole jobs. The network is a stub whose mouth brightness follows the audio."""

from __future__ import annotations

import os
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from inference.pipeline import lipsync
from preprocessing.errors import MediaError
from preprocessing.media.video_writer import VideoWriter
from tests.inference.stub import loud_mouth, mouth, psnr, stub, unchanged
from tests.material import (
    BOX,
    SIDE,
    moving_photo,
    number_of,
    photo,
    pictures_of,
    sound_of,
    speech,
    write_generator,
    write_sound,
    write_speech,
    write_video,
)

pytest_plugins = ["tests.inference.bench"]


# Length and rate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fps", "count"), [("25", 26), ("30000/1001", 31), ("30", 31), ("50", 52)], ids=["25", "29.97", "30", "50"]
)
def test_as_many_frames_as_the_audio_lasts(job, tmp_path, fps, count):
    """1.03 s are 25.75, 30.87, 30.9 and 51.5 frames."""
    audio = write_speech(tmp_path / "speech.wav", 1.03)
    report = job(face=write_video(tmp_path / "in.mp4", moving_photo(10), Fraction(fps)), audio=audio)
    result = pictures_of(report.outfile)
    assert (len(result), report.frames, report.faces, report.fps) == (count, count, count, Fraction(fps))
    with av.open(str(report.outfile)) as container:
        assert container.streams.video[0].average_rate == Fraction(fps)
    assert abs(len(sound_of(report.outfile)) / 16000 - 1.03) <= 1 / Fraction(fps)


def test_a_photo_gets_the_rate_that_is_asked_for(job):
    assert (job(fps=30).frames, job(fps=12.5).frames) == (24, 10)
    assert job(fps=29.97).fps == Fraction(2997, 100)


def test_audio_is_the_one_given_and_in_time(job, tmp_path):
    samples, rate = speech(1.2)
    audio = write_sound(tmp_path / "speech.wav", samples, rate)
    coded = sound_of(job(audio=audio).outfile, rate)
    size = min(len(coded), len(samples))
    spectrum = np.fft.rfft(coded[:size], 2 * size) * np.conj(np.fft.rfft(samples[:size], 2 * size))
    assert np.argmax(np.fft.irfft(spectrum)) == 0
    assert np.corrcoef(coded[:size], samples[:size])[0, 1] > 0.98
    copied = sound_of(job(audio=audio, outfile=tmp_path / "out.mkv").outfile, rate)
    assert len(copied) == len(samples)
    assert np.abs(copied - samples).max() < 1e-4


# Changed and unchanged pixels ---------------------------------------------------------------------------------------


def test_only_the_mouth_is_changed_and_it_follows_the_audio(job, media):
    report = job(face=media / "swaying.mp4", crf=8)
    source, result = pictures_of(media / "swaying.mp4"), pictures_of(report.outfile)
    outside = np.ones((SIDE, SIDE), bool)
    outside[BOX[0] - 4 : BOX[1] + 14, BOX[2] - 4 : BOX[3] + 4] = False  # the pads are 10 pixels below
    assert min(psnr(a[outside], b[outside]) for a, b in zip(result, source, strict=False)) > 40
    assert np.mean([unchanged(a, b) for a, b in zip(result, source, strict=False)]) < 0.3
    assert np.std([mouth(frame).mean() for frame in result]) > 5


def test_a_real_frame_by_the_default_ways(tmp_path):
    """512x512 video coded like a camera's, a cascade, a generator: pixels outside the face keep over 40 dB."""
    shifts = [np.array([[1, 0, 6 * np.sin(k / 4)], [0, 1, 0]]) for k in range(6)]
    with VideoWriter(tmp_path / "in.mp4", 512, 512, Fraction(25), crf=18) as writer:
        for shift in shifts:
            writer.write(cv2.warpAffine(astronaut()[:, :, ::-1], shift, (512, 512), borderMode=cv2.BORDER_REPLICATE))
    report = lipsync(
        tmp_path / "in.mp4", write_speech(tmp_path / "speech.wav", 0.24), tmp_path / "out.mp4", detector="haar",
        checkpoint=write_generator(tmp_path / "tiny.safetensors"), backend="torch", device="cpu",
    )  # fmt: skip
    assert (report.frames, report.faces) == (6, 6)
    outside = np.ones((512, 512), bool)
    outside[50:210, 165:290] = False  # the face
    source, result = pictures_of(tmp_path / "in.mp4"), pictures_of(report.outfile)
    assert min(psnr(a[outside], b[outside]) for a, b in zip(result, source, strict=True)) > 40
    assert max(psnr(a[~outside], b[~outside]) for a, b in zip(result, source, strict=True)) < 35  # an untrained mouth


def test_the_mouth_answers_to_the_audio_at_its_time(job, tmp_path):
    """A tone from 0.6 s to 1 s: 0.2 s windows that start 40 ms before a frame overlap it from 0.44 s to 1.04 s."""
    time_ = np.arange(24000) / 16000
    tone = 0.5 * np.sin(2 * np.pi * 700 * time_) * ((time_ > 0.6) & (time_ < 1))
    result = pictures_of(job(audio=write_sound(tmp_path / "tone.wav", tone)).outfile)
    level = np.array([mouth(frame).mean() for frame in result])
    open_ = level > level[0] + 3
    assert abs(int(np.argmax(open_)) - 0.44 * 25) <= 1.5
    assert abs(len(open_) - int(np.argmax(open_[::-1])) - 1.04 * 25) <= 1.5
    assert open_[13:25].all()


def hidden(frames: list[np.ndarray], first: int, last: int) -> list[np.ndarray]:
    """Hides the face from the stub detector in frames `first` to `last` (exclusive)."""
    for frame in frames[first:last]:
        frame[:16, -16:] = 255
    return frames


def test_frames_without_a_face_pass_through_and_are_counted(job, detector, tmp_path):
    frames = hidden(moving_photo(45), 15, 35)
    video, audio = write_video(tmp_path / "in.mp4", frames), write_speech(tmp_path / "speech.wav", 1.8)
    report = job(face=video, audio=audio, detector="auto", detect_every=1)
    result, source = pictures_of(report.outfile), pictures_of(video)
    same = np.array([unchanged(a, b) for a, b in zip(result, source, strict=True)])
    assert same[16:35].all()
    assert report.frames == 45
    assert report.faces == 25
    assert same[:12].mean() < 0.3
    assert same[36:].mean() < 0.3


def test_a_short_gap_is_filled(job, detector, tmp_path):
    video = write_video(tmp_path / "in.mp4", hidden(moving_photo(20), 8, 12))
    assert job(face=video, detector="auto", detect_every=1).faces == 20


def test_a_cut_to_somewhere_else(job, detector, tmp_path):
    """The wall after the cut has no face: the mouth must not carry over to it, nor fade out before it."""
    wall = [np.full((SIDE, SIDE, 3), 90, np.uint8)] * 10
    frames = hidden(moving_photo(10) + wall, 10, 20)
    report = job(face=write_video(tmp_path / "in.mp4", frames), detector="auto")
    assert (report.frames, report.faces) == (20, 10)
    assert all(np.ptp(mouth(frame)) < 6 for frame in pictures_of(report.outfile)[10:])


def test_no_face_is_an_error(job, detector, tmp_path):
    video = write_video(tmp_path / "in.mp4", hidden(moving_photo(10), 0, 10))
    with pytest.raises(MediaError, match="shows no face"):
        job(face=video, detector="auto")
    assert not (tmp_path / "out.mp4").exists()


# Frame order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, [*range(30), *range(28, 18, -1)]),
        ({"sync_mode": "loop"}, [*range(30), *range(10)]),
        ({"sync_mode": "freeze"}, [*range(30), *[29] * 10]),
        ({"sync_mode": "cut"}, [*range(30)]),
        ({"static": True}, [0] * 40),
        ({"start": 0.2, "end": 0.4}, [5, 6, 7, 8, 9, 8, 7, 6] * 5),
        ({"start": 0.4, "sync_mode": "cut"}, [*range(10, 30)]),
    ],
    ids=["bounce", "loop", "freeze", "cut", "static", "start-end", "start"],
)
def test_frames_in_their_order(job, media, tmp_path, options, shown):
    audio = write_speech(tmp_path / "speech.wav", 1.6)
    steps = []
    report = job(
        face=media / "swaying.mp4", audio=audio, progress=lambda done, total: steps.append((done, total)), **options
    )
    assert [number_of(frame) for frame in pictures_of(report.outfile)] == shown
    assert steps == [(k, len(shown)) for k in range(1, len(shown) + 1)]
    assert report.faces == report.frames == len(shown)


def test_the_rest_of_the_video_is_cut_or_kept_as_it_is(job, media):
    assert job(face=media / "swaying.mp4").frames == 20
    report = job(face=media / "swaying.mp4", tail="keep", crf=8)
    source, result = pictures_of(media / "swaying.mp4"), pictures_of(report.outfile)
    assert (len(result), report.faces) == (30, 20)
    assert min(psnr(a, b) for a, b in zip(result[20:], source[20:], strict=True)) > 40
    change = [np.abs(mouth(a) - mouth(b)).mean() for a, b in zip(result, source, strict=True)]
    assert min(change[:16]) > 20
    assert change[16] > change[17] > change[18] > change[19] > change[20]  # the mouth does not snap back
    assert change[19] < change[16] / 2
    assert abs(len(sound_of(report.outfile)) / 16000 - 0.8) <= 0.04


def test_a_video_that_holds_less_than_it_announces(job, media, tmp_path):
    """Progress still ends at its total."""
    noise = np.random.default_rng(0).integers(0, 60, (40, SIDE, SIDE, 3), np.uint8)
    data = write_video(tmp_path / "whole.mp4", [photo() // 2 + grain for grain in noise]).read_bytes()
    (tmp_path / "in.mp4").write_bytes(data[: len(data) * 6 // 10])
    steps = []
    report = job(
        face=tmp_path / "in.mp4", audio=write_speech(tmp_path / "s.wav", 1.6), sync_mode="cut",
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert 10 <= report.frames < 40
    assert [done for done, _ in steps[:-1]] == list(range(1, report.frames + 1))
    assert steps[-1] == (report.frames, report.frames)


# Audio --------------------------------------------------------------------------------------------------------------


def amplitude(samples: np.ndarray, hertz: float) -> float:
    middle = samples[len(samples) // 4 : len(samples) * 3 // 4]
    return float(2 * np.abs(np.mean(middle * np.exp(-2j * np.pi * hertz * np.arange(len(middle)) / 16000))))


def test_the_videos_own_audio_stays_at_its_level(job, tmp_path):
    """An 800 Hz tone of amplitude 0.4 in the video, 500 Hz at 0.3 as speech."""
    seconds = np.arange(16000) / 16000
    own = write_sound(tmp_path / "own.wav", 0.4 * np.sin(2 * np.pi * 800 * seconds))
    given = write_sound(tmp_path / "given.wav", 0.3 * np.sin(2 * np.pi * 500 * seconds))
    video = write_video(tmp_path / "in.mp4", moving_photo(25), sound=own)
    for level in (0.0, 0.25):
        result = sound_of(job(face=video, audio=given, keep_audio=level).outfile)
        assert amplitude(result, 500) == pytest.approx(0.3, rel=0.05)
        assert amplitude(result, 800) == pytest.approx(0.4 * level, abs=0.01)


def test_the_mouth_rests_in_silence(job, tmp_path):
    """Speech, then from 0.8 s on room noise 50 dB below it, which moves the mouth without `rest`."""
    samples, rate = speech(2.4)
    samples[round(0.8 * rate) :] = np.random.default_rng(0).normal(0, 1e-3, len(samples) - round(0.8 * rate))
    audio = write_sound(tmp_path / "speech.wav", samples, rate)
    spread = {}
    for rest in (True, False):
        result = pictures_of(job(audio=audio, rest=rest, crf=6).outfile)[27:]
        spread[rest] = np.std([mouth(frame).mean() for frame in result])
    assert spread[True] < 0.2
    assert spread[False] > 3 * spread[True]


# Side files and metadata --------------------------------------------------------------------------------------------


def test_a_second_take_needs_no_detection(job, detector, media, tmp_path):
    track = tmp_path / "track.json"
    files = {"model": stub(kind="points"), "face": media / "swaying.mp4"}
    first = job(**files, detector="auto", save_track=track, outfile=tmp_path / "first.mp4")
    count = detector.frames_seen
    assert count > 0
    assert first.seconds["detect"] > 0
    second = job(**files, load_track=track, outfile=tmp_path / "second.mp4")
    assert detector.frames_seen == count
    assert "detect" not in second.seconds
    for a, b in zip(pictures_of(first.outfile), pictures_of(second.outfile), strict=True):
        assert psnr(a, b) > 45  # the file stores hundredths of a pixel


def test_preview(job, media, tmp_path):
    """A generator does not say where the mouth is, so that whole frames are shown; 20 frames, two passages."""
    before = os.umask(0o027)
    try:
        report = job(face=media / "swaying.mp4", preview=2)
    finally:
        os.umask(before)
    assert report.preview == tmp_path / "out.preview.png"
    assert report.preview.stat().st_mode & 0o777 == report.outfile.stat().st_mode & 0o777 == 0o640
    sheet = cv2.imread(str(report.preview))
    step = SIDE + 4
    assert sheet.shape == (4 * step - 4, 6 * step - 4, 3)
    cells = [[sheet[step * y :, step * x :][:SIDE, :SIDE] for x in range(6)] for y in range(4)]
    for first, row in ((3, 0), (10, 2)):
        assert [number_of(cell) for cell in cells[row]] == list(range(first, first + 6))
        assert [number_of(cell) for cell in cells[row + 1]] == list(range(first, first + 6))
        changes = [np.abs(a.astype(float) - b).max() for a, b in zip(cells[row], cells[row + 1], strict=True)]
        assert max(changes) > 20


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_the_file_says_that_it_is_generated(job, tmp_path, ending):
    report = job(outfile=tmp_path / f"out{ending}")
    with av.open(str(report.outfile)) as container:
        tags = {name.lower(): text for name, text in container.metadata.items()}
    assert tags["comment"].startswith("AI-generated")
    if ending != ".mov":  # which has no other field
        assert tags["description"] == tags["comment"]


def test_report(job, media, tmp_path):
    report = job(face=media / "swaying.mp4")
    assert (report.outfile, report.frames, report.faces, report.preview) == (tmp_path / "out.mp4", 20, 20, None)
    assert set(report.seconds) == {"other", "sound", "decode", "crop", "generate", "composite", "encode", "total"}
    sound, total = report.seconds.pop("sound"), report.seconds.pop("total")
    assert sound > 0
    assert all(0 < seconds < total for seconds in report.seconds.values())


def test_pixels_that_are_not_numbers_never_reach_a_frame(job, tmp_path):
    def breaking(mel: np.ndarray, faces: np.ndarray) -> np.ndarray:
        output = loud_mouth(mel, faces)
        output[-1, 0, 70, 40] = np.nan
        return output

    with pytest.raises(MediaError, match=r"pixels that are not numbers \(stub, fp32\)"):
        job(model=stub(breaking))
    assert list(tmp_path.iterdir()) == []
