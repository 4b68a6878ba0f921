"""Audio: all formats decode to the same sound at the same time."""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from preprocessing.errors import MediaError
from preprocessing.media.audio import AudioConfig, load_audio, spool_audio, stream_audio
from preprocessing.media.mel import mel_spectrogram
from tests.preprocessing.media.footage import white_noise


def ffmpeg(*arguments: object, sound: np.ndarray | None = None) -> None:
    """Runs ffmpeg; `sound`, (n,) float32 at 16 kHz, is its input 0."""
    raw = [] if sound is None else ["-f", "f32le", "-ar", 16000, "-ac", 1, "-i", "-"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *map(str, [*raw, *arguments])]
    subprocess.run(command, input=b"" if sound is None else sound.tobytes(), check=True)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """(n, channels) int16 or uint8 as a plain wav."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(samples.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def lag(samples: np.ndarray, reference: np.ndarray) -> int:
    """Delay in samples of `samples` relative to `reference`, at least one second of noise."""
    return int(np.argmax(np.correlate(samples, reference[4000:12000], "valid"))) - 4000


def test_stereo_of_another_rate_loads_as_in_the_original(golden, tmp_path):
    samples = load_audio(write_wav(tmp_path / "a.wav", golden["wav44k_stereo"], 44100))
    assert samples.dtype == np.float32
    assert samples.shape == golden["wav44k_mono16k"].shape
    assert np.abs(samples - golden["wav44k_mono16k"]).max() < 1e-4
    assert np.abs(mel_spectrogram(samples) - golden["mel44k_reflect"]).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.flac", [], 1e-4),
        ("a.wav", ["-c:a", "pcm_u8"], 1 / 100),
        ("a.wav", ["-c:a", "pcm_s24le"], 1e-6),
        ("a.wav", ["-c:a", "pcm_f64le"], 1e-6),
        ("a.mp3", ["-b:a", "192k"], None),
        ("a.m4a", ["-b:a", "192k"], None),
        ("a.ogg", ["-q:a", 6], None),
        ("a.opus", ["-ar", 48000, "-b:a", "128k"], None),
    ],
)
def test_every_format_gives_the_same_sound_at_the_same_time(tmp_path, name, options, tolerance):
    sound = white_noise(2, -18)
    ffmpeg(*options, tmp_path / name, sound=sound)
    loaded = load_audio(tmp_path / name)
    if tolerance is not None:
        assert loaded.shape == sound.shape
        assert np.abs(loaded - sound).max() < tolerance
    else:  # lossy: a codec may add a frame's rest at the end, but neither delay nor gain
        assert 0 <= len(loaded) - len(sound) < 1200
        assert lag(loaded, sound) == 0
        assert abs(20 * np.log10(loaded[:32000].std() / sound.std())) < 1.5


def test_channels_are_averaged_whatever_their_number(tmp_path):
    channels = np.tile(np.array([[3000, 6000, 0, 12000, 0, 6000]], np.int16), (1600, 1))
    six = load_audio(write_wav(tmp_path / "six.wav", channels, 16000))
    assert six == pytest.approx(np.full(1600, 4500 / 32768), abs=1e-6)  # 27000 / 6
    two = load_audio(write_wav(tmp_path / "two.wav", channels[:, :2], 16000))
    assert two == pytest.approx(np.full(1600, 4500 / 32768), abs=1e-6)


def test_integers_are_scaled_by_their_range(tmp_path):
    eight = load_audio(write_wav(tmp_path / "a.wav", np.array([[0], [128], [192]], np.uint8), 16000))
    assert eight.tolist() == [-1, 0, 0.5]
    sixteen = load_audio(write_wav(tmp_path / "b.wav", np.array([[-32768], [0], [16384]], np.int16), 16000))
    assert sixteen.tolist() == [-1, 0, 0.5]


def test_samples_that_are_no_numbers_become_zero(tmp_path):
    sound = np.array([0.25, np.nan, np.inf, -np.inf, -0.5], np.float32)
    ffmpeg("-c:a", "pcm_f32le", tmp_path / "a.wav", sound=sound)
    assert load_audio(tmp_path / "a.wav").tolist() == [0.25, 0, 0, 0, -0.5]


def test_pieces_are_small_and_make_up_the_whole(tmp_path):
    write_wav(tmp_path / "a.wav", (white_noise(20)[:, None] * 32768).astype(np.int16), 44100)
    pieces = list(stream_audio(tmp_path / "a.wav"))
    assert min(piece.size for piece in pieces) >= 1
    assert max(piece.size for piece in pieces) <= 16000
    assert {piece.dtype for piece in pieces} == {np.dtype(np.float32)}
    assert np.array_equal(np.concatenate(pieces), load_audio(tmp_path / "a.wav"))


def test_a_long_hole_comes_in_pieces(tmp_path):
    ffmpeg(
        "-af",
        "asetpts=PTS+if(gte(T\\,0.5)\\,120/TB\\,0)",
        "-c:a",
        "pcm_s16le",
        tmp_path / "a.mkv",
        sound=white_noise(1),
    )
    pieces = list(stream_audio(tmp_path / "a.mkv"))
    assert max(piece.size for piece in pieces) <= 16100  # a second, and what the resampler held back
    assert abs(sum(piece.size for piece in pieces) - 121 * 16000) < 1200


def test_a_spool_holds_the_sound_in_16_bits_and_leaves_nothing_behind(tmp_path):
    sound = np.array([[-32768], [32767], [0], [1], [-1], [12345]], np.int16)
    spool = spool_audio(write_wav(tmp_path / "a.wav", sound, 16000), tmp_path)
    assert isinstance(spool, np.memmap)
    assert (spool.dtype, spool.tolist()) == (np.int16, sound[:, 0].tolist())
    loud = np.array([1.5, -1.5, 0.25, 0.4 / 32768, 0.6 / 32768], np.float32)
    ffmpeg("-c:a", "pcm_f32le", tmp_path / "b.wav", sound=loud)
    assert spool_audio(tmp_path / "b.wav", tmp_path).tolist() == [32767, -32768, 8192, 0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "pcm_s16le"), ("a.mov", "pcm_s16le")])
def test_a_sound_track_that_starts_late_keeps_its_delay(tmp_path, name, codec):
    sound = white_noise(1)
    write_wav(tmp_path / "a.wav", (sound[:, None] * 32768).astype(np.int16), 16000)
    picture = ["-f", "lavfi", "-i", "color=size=64x64:rate=25:duration=2"]
    late = ["-itsoffset", 0.5, "-i", tmp_path / "a.wav", "-map", "0:v", "-map", "1:a", "-c:a", codec]
    ffmpeg(*picture, *late, "-pix_fmt", "yuv420p", tmp_path / name)
    loaded = load_audio(tmp_path / name)
    assert lag(loaded, sound) == 8000
    assert not loaded[:6900].any()


def test_what_comes_after_a_hole_keeps_its_time(tmp_path):
    sound = white_noise(3, seed=4)
    cut = r"aselect=not(between(t\,1\,1.999))"  # a second is missing, and the time stamps say so
    ffmpeg("-af", cut, "-c:a", "pcm_s16le", tmp_path / "a.mkv", sound=sound)
    loaded = load_audio(tmp_path / "a.mkv")
    assert abs(len(loaded) - 48000) < 1200
    silent = np.flatnonzero(loaded == 0)
    assert 14000 < len(silent) < 17000
    assert abs(lag(loaded[32000:], sound[32000:])) <= 16  # Matroska counts in milliseconds


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.flac"])
def test_a_damaged_file_gives_what_can_be_decoded(tmp_path, name):
    ffmpeg(tmp_path / name, sound=white_noise(2))
    data = bytearray((tmp_path / name).read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = bytes(len(data) // 10)
    (tmp_path / name).write_bytes(data)
    loaded = load_audio(tmp_path / name)
    assert 24000 < len(loaded) < 34000
    assert np.abs(loaded[:8000]).max() > 0.1


def test_a_file_without_sound_is_refused_in_one_line(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=size=64x64:rate=25:duration=0.2", tmp_path / "mute.mp4")
    write_wav(tmp_path / "empty.wav", np.zeros((0, 1), np.int16), 16000)
    (tmp_path / "text.wav").write_text("this is no sound\n" * 100)
    messages = {"mute.mp4": "has no audio", "empty.wav": "empty audio track", "text.wav": "is not", "none.wav": "exist"}
    for name, message in messages.items():
        for load in (load_audio, lambda path: spool_audio(path, tmp_path)):
            with pytest.raises(MediaError, match=message) as error:
                load(tmp_path / name)
            assert name in str(error.value)
            assert "\n" not in str(error.value)
    assert len(list(tmp_path.iterdir())) == 3


def test_another_rate_can_be_asked_for(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros((16000, 1), np.int16), 16000)
    assert load_audio(tmp_path / "a.wav", AudioConfig(sample_rate=24000)).shape == (24000,)
