"""The sound of written videos: copied bit by bit or encoded, cut, added and kept in time."""

import hashlib

import av
import numpy as np
import pytest

from preprocessing.media.sound.mux import AudioSource
from preprocessing.media.video_reader import open_media, probe, read_frames
from tests.preprocessing.media.footage import run_ffmpeg, save_wav
from tests.preprocessing.media.written import CLICKS, write


def decoded_sound(path):
    """(seconds from the start of the video stream, or file, to the first sample; mono samples; rate)."""
    with open_media(path) as container:
        stream, origin = container.streams.audio[0], container.start_time / 1e6
        for video in container.streams.video:
            origin = float(video.start_time * video.time_base)
        blocks = list(container.decode(stream))
        resampler = av.AudioResampler("flt", "mono", stream.rate)
        parts = [part.to_ndarray()[0] for block in blocks for part in resampler.resample(block)]
        return float(blocks[0].pts * blocks[0].time_base) - origin, np.concatenate(parts), stream.rate


def click_times(path):
    start, samples, rate = decoded_sound(path)
    loud = np.flatnonzero(np.abs(samples) > 0.4 * np.abs(samples).max())
    first_of_each = loud[np.diff(loud, prepend=-rate) > rate / 5]
    return start + first_of_each / rate


def packets_md5(path):
    digest = hashlib.md5()
    with open_media(path) as container:
        for packet in container.demux(container.streams.audio[0]):
            digest.update(bytes(packet))
    return digest.hexdigest()


def sound_codec(path):
    with open_media(path) as container:
        return container.streams.audio[0].codec_context.codec.canonical_name


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".m4a", "aac"), (".mp3", "libmp3lame"), (".mov", "alac"), (".ac3", "ac3")]
)
@pytest.mark.parametrize("out", [".mp4", ".mov", ".mkv"])
def test_one_whole_sound_is_copied_bit_by_bit_where_its_timing_survives(tmp_path, clicks, suffix, codec, out):
    sound = tmp_path / f"sound{suffix}"
    run_ffmpeg("-i", clicks, "-c:a", codec, sound)
    path = write(tmp_path / f"out{out}", 55, sounds=[AudioSource(sound)])
    kept = (suffix, out) not in {(".m4a", ".mkv"), (".mp3", ".mkv"), (".mov", ".mp4")}
    assert (packets_md5(path) == packets_md5(sound)) == kept
    np.testing.assert_allclose(click_times(path), click_times(sound), atol=0.001)


@pytest.mark.parametrize(
    ("name", "out", "codec"),
    [
        ("s.wav", ".mp4", "aac"),
        ("s.opus", ".mp4", "aac"),
        ("s.opus", ".mkv", "opus"),
        ("s.flac", ".mov", "aac"),
        ("s.flac", ".mkv", "flac"),
        ("s.ogg", ".mkv", "flac"),
        ("s.wav", ".mkv", "flac"),
    ],
)
def test_other_codecs_become_aac_where_the_container_wants_it(tmp_path, clicks, name, out, codec):
    run_ffmpeg("-i", clicks, tmp_path / name)
    path = write(tmp_path / f"out{out}", 50, sounds=[AudioSource(tmp_path / name)])
    assert sound_codec(path) == codec
    np.testing.assert_allclose(click_times(path), CLICKS, atol=0.002)  # encoders' priming does not shift them


@pytest.mark.parametrize(
    ("name", "out"),
    # Not AAC in Matroska: up to version 7 ffmpeg lets its priming, a packet, go before the picture there.
    [("s.wav", ".mp4"), ("s.m4a", ".mp4"), ("s.flac", ".mp4"), ("s.wav", ".mkv"), ("s.flac", ".mkv")],
)
@pytest.mark.parametrize("count", [20, 45, 75])
def test_the_sound_ends_with_the_frames(tmp_path, clicks, name, out, count):
    run_ffmpeg("-i", clicks, tmp_path / name)
    path = write(tmp_path / f"out{out}", count, sounds=[AudioSource(tmp_path / name)])
    assert len(list(read_frames(path))) == count
    assert probe(path).duration == pytest.approx(count / 25, abs=0.002)
    start, samples, rate = decoded_sound(path)
    packet = 1024 / rate if sound_codec(path) == "aac" else 0  # PyAV shows the last packet's padding
    assert abs(start) < 0.002
    assert -0.04 < len(samples) / rate - min(count / 25, 2) < 0.04 + packet


def test_duration_limits_both(tmp_path, clicks):
    path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(clicks)], duration=1.2)
    assert len(list(read_frames(path))) == 30
    assert len(decoded_sound(path)[1]) / 48000 == pytest.approx(1.2, abs=0.022)


def test_a_part_of_a_sound(tmp_path, clicks):
    path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(clicks, start=0.75, duration=0.5)])
    np.testing.assert_allclose(click_times(path), [0.25], atol=0.002)
    path = write(tmp_path / "louder.mp4", 50, sounds=[AudioSource(clicks, gain=0.5)])
    assert np.abs(decoded_sound(path)[1]).max() == pytest.approx(0.3, abs=0.08)


def test_sounds_are_added_not_averaged(tmp_path):
    time = np.arange(32000) / 16000
    low = save_wav(tmp_path / "low.wav", 0.3 * np.sin(2 * np.pi * 500 * time))
    high = save_wav(tmp_path / "high.wav", 0.3 * np.sin(2 * np.pi * 2000 * time[:16000]))
    path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(low), AudioSource(high, gain=0.5)])
    _, samples, rate = decoded_sound(path)
    for begin, strengths in ((0.2, (0.3, 0.15)), (1.2, (0.3, 0.0))):  # the second sound ends after one second
        part = samples[round(begin * rate) :][: rate // 2]
        spectrum = np.abs(np.fft.rfft(part)) * 2 / len(part)  # bins of 2 Hz
        assert (spectrum[250], spectrum[1000]) == pytest.approx(strengths, abs=0.02)


def test_one_sound_may_be_used_twice(tmp_path, clicks):
    for gain in (0.5, 0.3):
        path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(clicks, gain=0.5), AudioSource(clicks, gain=gain)])
        np.testing.assert_allclose(click_times(path), CLICKS, atol=0.002)
        assert np.abs(decoded_sound(path)[1]).max() == pytest.approx(0.6 * (0.5 + gain), abs=0.12)


def test_a_sound_that_begins_late_stays_late(tmp_path, clicks):
    video = write(tmp_path / "picture.mp4", 50)
    run_ffmpeg("-i", video, "-itsoffset", "0.4", "-i", clicks, "-c:v", "copy", "-c:a", "aac", tmp_path / "late.mp4")
    for gain in (1.0, 0.9):  # copied, encoded
        path = write(tmp_path / "out.mp4", 50, sounds=[AudioSource(tmp_path / "late.mp4", gain=gain)])
        np.testing.assert_allclose(click_times(path), [0.9, 1.4, 1.9], atol=0.002)
