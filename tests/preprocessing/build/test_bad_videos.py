"""Bad videos: each has a one-line outcome and leaves no partial files."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import video_pipeline as stages
from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import ClipRecipe, VideoOutcome, make_clips
from preprocessing.dataset.clips import Clip, ClipDraft
from preprocessing.dataset.quality_filters import QualityFilters
from preprocessing.media.video_writer import ffmpeg_binary
from tests.material import SIDE, swaying_photo, write_photo, write_speech, write_talk, write_video

HAAR = ClipRecipe(detector="haar", max_faces=2)
EMPTY = np.full((SIDE, SIDE, 3), 90, np.uint8)


def ffmpeg(*arguments: object) -> None:
    subprocess.run([ffmpeg_binary(), "-v", "error", "-y", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A good video of 1.2 s."""
    return write_talk(tmp_path_factory.mktemp("media") / "talk.mkv", swaying_photo(30))


def work(path: Path, clips: Path, recipe: ClipRecipe = HAAR) -> VideoOutcome:
    """The outcome, after checks common to all videos."""
    outcome = make_clips(VideoSource(path, path.name, "v-00000000", "s", "train"), clips, recipe)
    files = sorted(str(file.relative_to(clips)) for file in (clips / "clips").rglob("*") if file.is_file())
    assert files == sorted(row.clip for row in outcome.rows if row.clip)
    assert all(Clip.open(clips / name).frames == row.frames for row in outcome.rows if (name := row.clip))
    assert outcome.reason == " ".join(outcome.reason.split())
    assert outcome.reason.isprintable()
    assert (outcome.fate == "made") == (outcome.reason == "") == any(row.passes for row in outcome.rows)
    if outcome.fate in ("broken", "failed"):
        assert outcome.rows == []
    return outcome


def fate(path: Path, clips: Path) -> tuple[str, str]:
    outcome = work(path, clips)
    return outcome.fate, outcome.reason


# Permanent errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"just some text, as long as one likes\n" * 50, "is not a readable video, photo or audio file"),
        (bytes(range(256)) * 20, "is not a readable video, photo or audio file"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\ntalk.mkv\n#EXT-X-ENDLIST\n", "playlist"),
    ],
    ids=["empty", "text", "bytes", "playlist"],
)
def test_no_video_inside(tmp_path, content, message):
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    verdict, reason = fate(path, tmp_path)
    assert verdict == "broken"
    assert message in reason


def test_sound_only_picture_only_and_a_photo(tmp_path):
    assert "has no video stream" in fate(write_speech(tmp_path / "sound.mp4", 1.0), tmp_path)[1]
    assert "has no audio track" in fate(write_video(tmp_path / "mute.mp4", [EMPTY] * 5), tmp_path)[1]
    assert "is an image" in fate(write_photo(tmp_path / "photo.png"), tmp_path)[1]
    assert work(tmp_path / "photo.png", tmp_path).fate == "broken"


def test_an_index_that_is_cut_off(tmp_path, talk):
    path = tmp_path / "talk.mp4"
    ffmpeg("-i", talk, "-c", "copy", path)
    data = path.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    path.write_bytes(data[: len(data) * 8 // 10])
    assert fate(path, tmp_path)[0] == "broken"


def test_a_picture_that_changes_its_size(tmp_path, talk, monkeypatch):
    frames = [EMPTY] * 10 + [EMPTY[:100]] * 10
    monkeypatch.setattr(stages, "read_frames", lambda *args, **options: iter(frames))
    verdict, reason = fate(talk, tmp_path)
    assert verdict == "broken"
    assert "changes its frame size at 0.40 s" in reason


# Partly decodable videos ---------------------------------------------------------------------------------------------


def test_a_truncated_file_gives_clips_of_what_is_whole(tmp_path):
    path = write_talk(tmp_path / "talk.mkv", swaying_photo(75))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    outcome = work(path, tmp_path)
    assert outcome.fate == "made"
    assert 25 <= sum(row.frames for row in outcome.rows) < 65


def test_damage_in_the_middle(tmp_path, talk):
    data = bytearray(talk.read_bytes())
    for seed in range(2):
        random = np.random.default_rng(seed)
        for place in random.integers(1000, len(data), 40):
            data[place] = int(random.integers(256))
        path = tmp_path / f"{seed}.mkv"
        path.write_bytes(data)
        assert work(path, tmp_path / str(seed)).fate in ("made", "rejected", "broken")


def test_one_frame_and_nobody(tmp_path):
    for name, frames in (("one", swaying_photo(1)), ("empty", [EMPTY] * 30)):
        verdict, reason = fate(write_talk(tmp_path / f"{name}.mp4", frames), tmp_path)
        assert verdict == "rejected"
        assert "no face with audio found" in reason


def test_cuts_every_second(tmp_path):
    face = swaying_photo(75)
    frames = [frame if k // 25 % 2 else frame[:, ::-1, ::-1] for k, frame in enumerate(face)]
    outcome = work(write_talk(tmp_path / "cuts.mp4", frames), tmp_path)
    assert [(row.start, row.frames) for row in outcome.rows] == [(0.0, 25), (1.0, 25), (2.0, 25)]


def test_two_people_give_a_clip_each(tmp_path):
    frames = [np.hstack([frame, frame[:, ::-1]]) for frame in swaying_photo(30)]
    path = write_talk(tmp_path / "two.mp4", frames)
    outcome = work(path, tmp_path)
    assert sorted(row.person for row in outcome.rows) == [0, 1]
    assert sorted(Path(row.clip).name for row in outcome.rows) == [f"v-00000000__{x}0000.safetensors" for x in "ab"]
    middles = [np.nanmean(Clip.open(tmp_path / row.clip).track.boxes[:, [0, 2]]) for row in outcome.rows]
    assert min(middles) < SIDE < max(middles)
    assert len(work(path, tmp_path / "one", replace(HAAR, max_faces=1)).rows) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["-vf", "select='gt(mod(n,4),0)'", "-fps_mode", "vfr"],
        ["-vf", "fps=60"],
        ["-vf", "scale=2160:2160:flags=neighbor,pad=3840:2160", "-c:v", "mjpeg", "-q:v", "4"],
    ],
    ids=["variable", "fast", "4K"],
)
def test_rates_and_sizes(tmp_path, talk, options):
    path = tmp_path / "other.mkv"
    ffmpeg("-i", talk, *options, "-c:a", "copy", path)
    outcome = work(path, tmp_path)
    assert outcome.fate == "made"
    assert outcome.rows[0].frames == pytest.approx(30, abs=2)


def test_a_rotated_video_is_upright(tmp_path, talk):
    flat, path = tmp_path / "flat.mp4", tmp_path / "rotated.mp4"
    ffmpeg("-i", talk, "-vf", "pad=200:160,transpose=1", "-c:a", "aac", flat)
    ffmpeg("-display_rotation", "90", "-i", flat, "-c", "copy", path)
    (row,) = work(path, tmp_path).rows
    assert Clip.open(tmp_path / row.clip).header.picture == (200, 160)
    assert work(flat, tmp_path / "flat").fate == "rejected"  # the cascade detects only upright faces


# Errors worth a retry ------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path):
    verdict, reason = fate(tmp_path / "gone.mp4", tmp_path)
    assert verdict == "failed"
    assert "gone.mp4 does not exist" in reason


def test_a_file_that_vanishes_between_the_passes(tmp_path, talk, monkeypatch):
    path = tmp_path / "talk.mkv"
    path.write_bytes(talk.read_bytes())

    def judge(*arguments):
        path.unlink(missing_ok=True)
        return real(*arguments)

    real = stages.measure_track
    monkeypatch.setattr(stages, "measure_track", judge)
    verdict, reason = fate(path, tmp_path)
    assert verdict == "failed"
    assert "does not exist" in reason


def test_a_file_that_shrinks_between_the_passes(tmp_path, talk, monkeypatch):
    real = stages.read_frames

    def shorter(*arguments, **options):
        frames = list(real(*arguments, **options))
        return iter(frames if "max_side" in options else frames[:20])

    monkeypatch.setattr(stages, "read_frames", shorter)
    verdict, reason = fate(talk, tmp_path)
    assert verdict == "failed"
    assert "changed while it was being read" in reason


def test_a_file_that_may_not_be_read(tmp_path, talk, monkeypatch):
    real = os.open

    def refuse(path, *arguments, **options):
        if os.fspath(path) == os.fspath(talk):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    verdict, reason = fate(talk, tmp_path)
    assert verdict == "failed"
    assert "Permission denied" in reason


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """The first clip is written, the second is not: neither stays."""
    written, real = [], ClipDraft.write

    def write(draft, path, *arguments):
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written.append(path)
        real(draft, path, *arguments)
        assert path.is_file()

    monkeypatch.setattr(ClipDraft, "write", write)
    path = write_talk(tmp_path / "talk.mp4", swaying_photo(40))
    outcome = work(path, tmp_path, replace(HAAR, filters=QualityFilters(min_seconds=0.4, max_seconds=0.9)))
    assert outcome.fate == "failed"
    assert outcome.reason.endswith(f"safetensors: {os.strerror(errno.ENOSPC)}")
    assert len(written) == 1


def test_a_disk_that_is_too_full_for_the_sound(tmp_path, talk, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stages, "spool_audio", refuse)
    verdict, reason = fate(talk, tmp_path)
    assert (verdict, reason) == ("failed", f"{talk}: {os.strerror(errno.ENOSPC)}")


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two words.mkv", 'it\'s "so"\nand on.mkv', "-y%03d.mkv", "é\udcff.mkv"])
def test_names(tmp_path, name, talk):
    path = tmp_path / name
    path.write_bytes(talk.read_bytes()[:2000])
    assert work(path, tmp_path).fate in ("rejected", "broken")
    path.write_bytes(talk.read_bytes())
    outcome = work(path, tmp_path)
    assert outcome.fate == "made"
    assert Clip.open(tmp_path / outcome.rows[0].clip).header.source == name


@pytest.mark.parametrize("speaker", ["../../x", "/etc\n", ""])
def test_speakers_names_stay_inside_the_folder(tmp_path, talk, speaker):
    outcome = make_clips(VideoSource(talk, "v.mkv", "v-00000000", speaker, "train"), tmp_path, HAAR)
    (file,) = (tmp_path / "clips").glob("*/*")
    assert file == tmp_path / outcome.rows[0].clip
    assert Clip.open(file).speaker == speaker
