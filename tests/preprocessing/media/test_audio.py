"""Audio: decoding all formats, mel parity with the original, the frame-to-mel mapping, speech and silence."""

from __future__ import annotations

import json
import re
import subprocess
import wave
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import librosa
import numpy as np
import pytest
import torch

from preprocessing.errors import MediaError
from preprocessing.media.audio import (
    AudioConfig,
    _level_db,
    _log_mel,
    frame_count,
    load_audio,
    mel_spectrogram,
    mel_window,
    rest_in_silence,
    speech_columns,
    spool_audio,
    stream_audio,
)

SPEECH = Path(__file__).parents[3] / "assets" / "speech.wav"
RATES = [Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, 60, Fraction(12345, 1000)]


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


def noise(seconds: float, dbfs: float = -20.0, seed: int = 0) -> np.ndarray:
    """White noise of the given level, 16 kHz."""
    return np.random.default_rng(seed).normal(0, 10 ** (dbfs / 20), round(seconds * 16000)).astype(np.float32)


def lag(samples: np.ndarray, reference: np.ndarray) -> int:
    """Delay in samples of `samples` relative to `reference`, at least one second of noise."""
    return int(np.argmax(np.correlate(samples, reference[4000:12000], "valid"))) - 4000


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "reference/golden/audio.npz") as arrays:
        return dict(arrays)


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
    sound = noise(2, -18)
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
    write_wav(tmp_path / "a.wav", (noise(20)[:, None] * 32768).astype(np.int16), 44100)
    pieces = list(stream_audio(tmp_path / "a.wav"))
    assert min(piece.size for piece in pieces) >= 1
    assert max(piece.size for piece in pieces) <= 16000
    assert {piece.dtype for piece in pieces} == {np.dtype(np.float32)}
    assert np.array_equal(np.concatenate(pieces), load_audio(tmp_path / "a.wav"))


def test_a_long_hole_comes_in_pieces(tmp_path):
    ffmpeg("-af", "asetpts=PTS+if(gte(T\\,0.5)\\,120/TB\\,0)", "-c:a", "pcm_s16le", tmp_path / "a.mkv", sound=noise(1))
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
    sound = noise(1)
    write_wav(tmp_path / "a.wav", (sound[:, None] * 32768).astype(np.int16), 16000)
    picture = ["-f", "lavfi", "-i", "color=size=64x64:rate=25:duration=2"]
    late = ["-itsoffset", 0.5, "-i", tmp_path / "a.wav", "-map", "0:v", "-map", "1:a", "-c:a", codec]
    ffmpeg(*picture, *late, "-pix_fmt", "yuv420p", tmp_path / name)
    loaded = load_audio(tmp_path / name)
    assert lag(loaded, sound) == 8000
    assert not loaded[:6900].any()


def test_what_comes_after_a_hole_keeps_its_time(tmp_path):
    sound = noise(3, seed=4)
    cut = r"aselect=not(between(t\,1\,1.999))"  # a second is missing, and the time stamps say so
    ffmpeg("-af", cut, "-c:a", "pcm_s16le", tmp_path / "a.mkv", sound=sound)
    loaded = load_audio(tmp_path / "a.mkv")
    assert abs(len(loaded) - 48000) < 1200
    silent = np.flatnonzero(loaded == 0)
    assert 14000 < len(silent) < 17000
    assert abs(lag(loaded[32000:], sound[32000:])) <= 16  # Matroska counts in milliseconds


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.flac"])
def test_a_damaged_file_gives_what_can_be_decoded(tmp_path, name):
    ffmpeg(tmp_path / name, sound=noise(2))
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


def test_mel_is_the_originals(golden):
    mel = mel_spectrogram(golden["wav16k"].astype(np.float32) / 32768)
    assert mel.dtype == np.float32
    assert mel.shape == (80, 241)
    assert np.abs(mel - golden["mel_reflect"]).max() < 1e-3
    assert np.abs(mel - golden["mel_constant"])[:, :2].max() > 0.1  # the padding is part of the contract


@pytest.mark.parametrize("samples", [801, 1000, 16000, 37123])
def test_mel_agrees_with_librosa_on_noise(samples):
    x = np.random.default_rng(samples).normal(0, 0.1, samples)
    emphasised = np.append(x[0], x[1:] - 0.97 * x[:-1])
    spectrum = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, pad_mode="reflect"))
    basis = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    level = 20 * np.log10(np.maximum(1e-5, basis @ spectrum)) - 20
    expected = np.clip(8 * (level + 100) / 100 - 4, -4, 4)
    assert mel_spectrogram(x) == pytest.approx(expected, abs=1e-3)


def test_the_block_size_changes_nothing():
    sound = noise(3)
    whole = mel_spectrogram(sound)
    for block in (1, 7, 100, 240, 241):
        assert np.abs(mel_spectrogram(sound, block=block) - whole).max() < 1e-5


LENGTHS = [1, 2, 3, 199, 200, 399, 400, 401, 799, 800, 801, 4000, 33333]


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("block", [7, 4000])
def test_the_mel_is_bit_for_bit_that_of_the_whole_signal_at_once(samples, block):
    sound, config = noise(3)[:samples], AudioConfig()
    x = np.append(sound[:1], sound[1:] - np.float32(0.97) * sound[:-1])
    x = np.pad(x, 400, mode="reflect")
    columns = 1 + samples // 200
    spans = [x[first * 200 : (min(first + block, columns) - 1) * 200 + 800] for first in range(0, columns, block)]
    expected = np.concatenate([_log_mel(torch.from_numpy(span), config).numpy() for span in spans], axis=1)
    assert np.array_equal(mel_spectrogram(sound, block=block), expected)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("block", [7, 4000])
def test_the_level_is_that_of_the_whole_signal_at_once(samples, block):
    sound = np.concatenate([noise(1, -20), noise(1, -70), noise(1, -40)])[:samples]
    energy = np.concatenate(([0.0], np.cumsum(sound.astype(np.float64) ** 2)))
    centre = np.arange(1 + samples // 200) * 200
    first, last = np.clip(centre - 400, 0, samples), np.clip(centre + 400, 0, samples)
    expected = 10 * np.log10(np.maximum((energy[last] - energy[first]) / np.maximum(last - first, 1), 1e-12))
    assert _level_db(sound, AudioConfig(), block) == pytest.approx(expected, abs=1e-6)


def test_sixteen_bits_on_disk_and_floats_in_memory_are_the_same_sound(tmp_path):
    numbers = (np.concatenate([noise(1), np.zeros(16000), noise(0.7)]) * 32768).astype(np.int16)
    floats = numbers.astype(np.float32) / 32768
    disk = np.memmap(tmp_path / "a.raw", np.int16, mode="w+", shape=numbers.shape)
    disk[:] = numbers
    for same in (numbers, disk, floats.astype(np.float64)):
        assert np.array_equal(mel_spectrogram(same), mel_spectrogram(floats))
        assert np.array_equal(speech_columns(same), speech_columns(floats))
    assert 0 < speech_columns(disk).mean() < 1


@pytest.mark.parametrize("samples", [1, 2, 199, 200, 399, 400, 401, 799, 800])
def test_a_short_sound_has_its_columns(samples):
    mel = mel_spectrogram(noise(1)[:samples])
    assert mel.shape == (80, 1 + samples // 200)
    assert np.isfinite(mel).all()


def test_silence_is_the_lowest_value_and_broken_samples_count_as_silence():
    assert (mel_spectrogram(np.zeros(4000)) == -4).all()
    assert (mel_spectrogram(np.full(4000, np.nan)) == -4).all()
    sound = noise(0.5)
    broken, zeroed = sound.copy(), sound.copy()
    broken[[10, 2000, 5000]] = np.nan, np.inf, -np.inf
    zeroed[[10, 2000, 5000]] = 0
    assert (mel_spectrogram(broken) == mel_spectrogram(zeroed)).all()


def test_a_tone_lights_its_own_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    centres = librosa.mel_frequencies(82, fmin=55, fmax=7600)[1:-1]
    assert np.argmax(mel_spectrogram(tone)[:, 40]) == np.argmin(np.abs(centres - 1000))


def ramp(columns: int) -> np.ndarray:
    """A mel whose values are its column indices."""
    return np.tile(np.arange(columns, dtype=np.float32), (80, 1))


def first_column(mel: np.ndarray, time: Fraction | float, lead: Fraction) -> int:
    window = mel_window(mel, time, lead=lead)
    assert window.shape == (80, 16)
    assert (window[0] == window[0, 0] + np.arange(16)).all()
    return int(window[0, 0])


def test_windows_start_where_the_original_starts_them(shared):
    cases = json.loads((shared / "reference/golden/chunks.json").read_text())
    assert {case["fps"] for case in cases} >= {15.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0}
    for case in cases:
        mel = ramp(case["mel_columns"])
        ours = [first_column(mel, i / case["fps"], Fraction(0)) for i in range(case["n_chunks"] - 1)]
        assert ours == case["starts"][:-1]  # the original's last chunk is another one, the last 16 columns
        exact = Fraction(case["fps"]).limit_denominator(1001)
        assert [first_column(mel, i / exact, Fraction(0)) for i in range(case["n_chunks"] - 1)] == ours


def test_windows_are_those_of_the_originals_training_data(shared, golden):
    mel = golden["mel_reflect"].astype(np.float32)
    with np.load(shared / "reference/golden/generator.npz") as gold:
        starts, windows = gold["start_frame5"], gold["mel5"]
    for start, five in zip(starts, windows, strict=True):
        for k in range(5):
            assert np.array_equal(mel_window(mel, Fraction(int(start) + k, 25)), five[k, 0])


def test_the_experts_windows_are_the_originals(shared, golden):
    mel = golden["mel_reflect"].astype(np.float32)
    with np.load(shared / "reference/golden/syncnet.npz") as gold:
        for start, window in zip(gold["start_frame"], gold["mel"], strict=True):
            assert np.array_equal(mel_window(mel, Fraction(int(start), 25), lead=Fraction(0)), window[0])


def test_windows_by_hand():
    mel = ramp(100)
    assert first_column(mel, Fraction(10, 25), Fraction(0)) == 32  # 80 x 0.4
    assert first_column(mel, Fraction(10, 25), Fraction(1, 25)) == 28  # 80 x 0.36 = 28.8
    assert first_column(mel, 0.36, Fraction(1, 25)) == 25  # 80 x 0.32 = 25.6
    assert first_column(mel, 1.0, Fraction(1, 25)) == 76  # 80 x 0.96 = 76.8


def test_beyond_both_ends_lies_silence():
    mel = ramp(20)
    start = mel_window(mel, Fraction(0))[0]  # from column floor(-3.2) = -4
    assert start.tolist() == [-4] * 4 + list(range(12))
    end = mel_window(mel, Fraction(12, 80), lead=Fraction(0))[0]
    assert end.tolist() == [*range(12, 20), *[-4] * 8]
    for time in (-1000, -0.3, 0.26, 1000):
        assert (mel_window(mel, time, lead=Fraction(0)) == -4).all()
    assert mel_window(ramp(3), 0.0, lead=Fraction(0))[0].tolist() == [0, 1, 2] + [-4] * 13


def test_a_window_is_a_copy():
    mel = ramp(40)
    mel_window(mel, 0.2)[:] = 9
    assert mel.max() == 39


@pytest.mark.parametrize("fps", RATES)
def test_fractions_and_floats_of_a_time_meet_the_same_column(fps):
    mel, fps = ramp(1000), Fraction(fps)
    for k in range(4, int(12 * fps)):
        expected = (80 * (k / fps - Fraction(1, 25))).__floor__()
        assert first_column(mel, k / fps, Fraction(1, 25)) == expected
        assert first_column(mel, k / float(fps), Fraction(1, 25)) == expected


@pytest.mark.parametrize("fps", RATES)
def test_seconds_give_their_frames(fps):
    fps = Fraction(fps)
    for seconds in (1, 2, 3, 7, 10, 61, 3600):
        assert frame_count(seconds * 16000, fps) == round(seconds * fps)
    assert frame_count(1, fps) == 1


def test_frames_by_hand():
    assert frame_count(160000, Fraction(25)) == 250
    assert frame_count(160000, Fraction(30000, 1001)) == 300  # 299.7
    assert frame_count(16320, Fraction(25)) == 26  # 25.5, to the even number
    assert frame_count(44100, Fraction(25), AudioConfig(sample_rate=44100, hop_length=551)) == 25


def flags(*pieces: tuple[float, float]) -> np.ndarray:
    """Speech flags of noise made of (seconds, dBFS) segments."""
    parts = [noise(seconds, dbfs, seed) for seed, (seconds, dbfs) in enumerate(pieces)]
    sound = np.concatenate(parts)
    found = speech_columns(sound)
    assert found.shape == (1 + len(sound) // 200,)
    return found


def share(found: np.ndarray, first: float, last: float) -> float:
    """Fraction of speech between seconds `first` and `last`."""
    return float(found[round(first * 80) : round(last * 80)].mean())


def test_a_pause_is_silence_and_a_short_one_is_not():
    found = flags((1, -20), (0.5, -80), (1, -20), (0.1, -80), (1, -20))
    assert share(found, 1.1, 1.4) == 0
    assert share(found, 0, 1) == 1
    assert share(found, 1.5, 3.6) == 1


def test_speech_is_widened_by_the_margin():
    edges = np.flatnonzero(np.diff(flags((1, -20), (1, -90), (1, -20)).astype(int)))
    # The level is that of 50 ms, so speech shows two columns beyond its end, and five (0.06 s) more by the margin.
    assert abs(edges[0] - (80 + 2 + 5)) <= 1
    assert abs(edges[1] - (160 - 2 - 5)) <= 1


def test_a_quiet_ending_belongs_to_speech_and_a_quiet_sound_alone_does_not():
    # Loud parts at -20 dBFS: speech ends below -58 and begins above -52, so -55 only goes on with speech.
    found = flags((1, -20), (0.4, -55), (0.6, -75), (0.4, -55), (0.6, -75), (1, -20))
    assert share(found, 1.05, 1.35) == 1
    assert share(found, 1.55, 2.85) == 0


@pytest.mark.parametrize("room", [-75, -62, -50, -45])
def test_room_noise_is_no_speech(room):
    found = flags((1, -20), (1, room), (1, -20))
    assert share(found, 1.15, 1.85) == 0
    assert share(found, 0, 1) == 1


def test_noise_near_the_speech_cannot_be_told_from_it():
    assert flags((1, -20), (1, -36), (1, -20)).all()


def test_all_loud_and_all_silent():
    assert flags((2, -20)).all()
    assert not flags((2, -65)).any()
    assert not speech_columns(np.zeros(16000)).any()
    assert not speech_columns(np.full(16000, np.nan)).any()


def test_a_quiet_recording_is_judged_by_its_own_loudness():
    found = flags((1, -45), (1, -90), (1, -45))
    assert share(found, 0, 1) == 1
    assert share(found, 1.1, 1.9) == 0


@pytest.mark.parametrize("samples", [1, 150, 400, 1000, 1400, 16000])
def test_there_is_one_flag_for_each_column(samples):
    sound = noise(1)[:samples]
    found = speech_columns(sound)
    assert found.shape == (mel_spectrogram(sound).shape[1],)
    assert found.all()


def test_the_pauses_of_real_speech_are_found():
    found = speech_columns(load_audio(SPEECH))
    # Its card: silence in 0.00-0.40, 2.44-3.24 and 4.96-5.39 s.
    assert [share(found, *span) for span in ((0, 0.3), (2.54, 3.14), (5.07, 5.4))] == [0, 0, 0]
    assert [share(found, *span) for span in ((0.42, 2.42), (3.26, 4.94))] == [1, 1]


def test_rest_in_silence_silences_only_silence():
    mel = np.arange(12, dtype=np.float32).reshape(2, 6) / 4
    speech = np.array([True, False, True, True, False, False])
    rest = rest_in_silence(mel, speech)
    assert rest.tolist() == [[0, -4, 0.5, 0.75, -4, -4], [1.5, -4, 2, 2.25, -4, -4]]
    assert rest.dtype == np.float32
    assert mel[0, 1] == 0.25


def test_a_foreign_front_end_is_refused_naming_both_values():
    AudioConfig().require(AudioConfig(), "clip")
    AudioConfig().require({"hop_length": 200}, "clip")
    with pytest.raises(ValueError, match=re.escape("a.pt was made with hop_length = 160, expected 200")):
        AudioConfig().require(AudioConfig(hop_length=160), "a.pt")
    with pytest.raises(ValueError, match=r"fmax is 7600\.0 Hz, above half the sample rate of 8000 Hz"):
        AudioConfig(sample_rate=8000)
    assert AudioConfig().columns_per_second == 80
