"""The sound of a written video: in time in every container, whatever the source's codec, rate and channels."""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from preprocessing.media.audio import load_audio
from preprocessing.media.sound.mix import RATE, mix
from preprocessing.media.sound.mux import AudioSource, AudioTrack
from preprocessing.media.video_reader import probe
from preprocessing.media.video_writer import VideoWriter, ffmpeg_binary
from tests.preprocessing.media.footage import delay, noise, photo, run_ffmpeg, save_wav

SECONDS = 1.6


def write(path, *sounds, seconds=SECONDS):
    with VideoWriter(path, 64, 48, Fraction(25), sounds=sounds, preset="ultrafast") as writer:
        for _ in range(round(seconds * 25)):
            writer.write(photo(64, 48))
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same noise by several coders."""
    folder = tmp_path_factory.mktemp("sources")
    wav = save_wav(folder / "speech.wav", noise(SECONDS))
    coders = {
        "phone.mp3": ["-c:a", "libmp3lame", "-ar", 8000], "tts.mp3": ["-c:a", "libmp3lame", "-ar", 24000],
        "song.mp3": ["-c:a", "libmp3lame", "-ar", 44100], "song.m4a": ["-c:a", "aac"], "song.mka": ["-c:a", "aac"],
        "bare.aac": ["-c:a", "aac"], "chat.opus": ["-c:a", "libopus"], "chat.mka": ["-c:a", "libopus"],
        "song.ogg": ["-c:a", "libvorbis"], "song.flac": [], "song.ts": ["-c:a", "aac"], "speech.wav": None,
    }  # fmt: skip
    for name, options in coders.items():
        if options is not None:
            run_ffmpeg("-i", wav, *options, folder / name)
    return {name: folder / name for name in coders}


CASES = {
    ".mp4": ("phone.mp3", "tts.mp3", "song.m4a", "song.mka", "bare.aac", "song.ts"),
    ".mov": ("song.mp3", "speech.wav"),
    ".mkv": ("tts.mp3", "song.m4a", "song.ogg", "chat.opus", "chat.mka", "speech.wav"),
}


@pytest.mark.parametrize(("suffix", "name"), [(suffix, name) for suffix, names in CASES.items() for name in names])
def test_the_sound_keeps_the_time_that_the_mouth_follows(tmp_path, sources, suffix, name):
    """Cross-correlated with what moves the mouth: the decoded source."""
    heard = load_audio(write(tmp_path / f"out{suffix}", AudioSource(sources[name])))
    assert abs(delay(heard, load_audio(sources[name]))) <= 0.008
    assert abs(len(heard) / 16000 - SECONDS) < 0.06


@pytest.mark.parametrize(("channels", "suffix"), [(3, ".mkv"), (6, ".mp4"), (7, ".mp4"), (9, ".mp4"), (16, ".mkv")])
def test_any_number_of_channels(tmp_path, channels, suffix):
    sound = noise(1)
    wav = save_wav(tmp_path / "poly.wav", np.repeat(sound[:, None] / 2, channels, axis=1))
    path = write(tmp_path / f"out{suffix}", AudioSource(wav))
    heard = load_audio(path)
    assert abs(delay(heard, load_audio(wav))) <= 0.001
    assert np.abs(heard).max() > 0.2
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.layout.nb_channels == 2  # a plain WAV does not name them


@pytest.mark.parametrize("rate", [8000, 192000])
def test_any_sample_rate(tmp_path, rate):
    wav = save_wav(tmp_path / "sound.wav", noise(1, rate), rate)
    path = write(tmp_path / "out.mp4", AudioSource(wav))
    assert abs(delay(load_audio(path), load_audio(wav))) <= 0.001


def test_a_video_whose_sound_is_shorter_is_silent_for_the_rest(tmp_path, sources):
    speech, own = AudioSource(sources["speech.wav"]), AudioSource(sources["song.m4a"], start=2.0, gain=0.5)
    heard = load_audio(write(tmp_path / "out.mp4", speech, own))
    assert np.corrcoef(heard[:25000], load_audio(sources["speech.wav"])[:25000])[0, 1] > 0.98


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_start_counts_on_the_clock_of_the_file(tmp_path, sources, suffix):
    """A sound of 1.6 s begins at 0.54 s: from 1.2 s on, there is another second of it."""
    path = tmp_path / f"late{suffix}"
    picture = ["-f", "lavfi", "-i", "color=s=64x64:r=25:d=2.2"]
    run_ffmpeg(*picture, "-itsoffset", 0.54, "-i", sources["speech.wav"], "-pix_fmt", "yuv420p", "-c:a", "aac", path)
    assert probe(path).duration == pytest.approx(2.2, abs=0.05)
    heard = load_audio(write(tmp_path / "out.mp4", AudioSource(path, start=1.2), seconds=0.9))
    assert abs(delay(heard, load_audio(path)[19200:])) <= 0.002
    assert np.abs(heard[:12000]).max() > 0.1


def test_the_chosen_track_is_written(tmp_path, sources):
    other = save_wav(tmp_path / "other.wav", noise(SECONDS, seed=7))
    two = tmp_path / "two.mka"
    run_ffmpeg("-i", sources["speech.wav"], "-i", other, "-map", "0", "-map", "1", "-disposition:a:1", "default",
               "-disposition:a:0", "0", "-c:a", "flac", two)  # fmt: skip
    for track, source in ((None, other), (0, sources["speech.wav"]), (1, other)):
        for suffix in (".mkv", ".mp4"):  # copied, encoded
            heard = load_audio(write(tmp_path / f"out{suffix}", AudioSource(two, track=track)))[:25000]
            assert np.corrcoef(heard, load_audio(source)[:25000])[0, 1] > 0.98


def test_what_this_ffmpeg_cannot_copy_is_encoded(tmp_path, sources, monkeypatch):
    fake = tmp_path / "bin" / "ffmpeg"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\ncase "$*" in *"c:a copy"*) echo "codec not supported" >&2; exit 1;; esac\n'
                    f'exec "{ffmpeg_binary()}" "$@"\n')  # fmt: skip
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    assert shutil.which("ffmpeg") == str(fake)
    heard = load_audio(write(tmp_path / "out.mp4", AudioSource(sources["song.m4a"])))
    assert abs(delay(heard, load_audio(sources["song.m4a"]))) <= 0.001


def test_the_mix_holds_a_second_at_a_time(tmp_path):
    """Memory does not grow with the length of the sound; a shorter video stops reading it."""
    run_ffmpeg("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono:d=3600", "-c:a", "adpcm_ima_wav", tmp_path / "hour.wav")
    blocks = mix([AudioTrack.of(AudioSource(tmp_path / "hour.wav", start=1.5))], 2, 2.5)
    shapes = [block.shape for block in blocks]
    assert shapes == [(RATE, 2), (RATE, 2), (RATE // 2, 2)]
