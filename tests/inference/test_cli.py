"""The command line: accepted flags, and termination as a separate process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.data import brick

from tests.inference.command import BOX_FLAG, command, one_line, run
from tests.material import BOX, SIDE, photo, pictures_of, write_speech, write_video
from tests.processes import Command
from wav2lip.generator.model import Generator

pytest_plugins = ["tests.inference.bench"]
REPOSITORY = Path(__file__).resolve().parents[2]


def test_original_flags(media, out, capfd):
    """Spellings of the original Wav2Lip, its "no box" value, and the default output folder."""
    rotated = write_video(out / "rotated.mp4", [cv2.rotate(photo(), cv2.ROTATE_90_COUNTERCLOCKWISE)] * 3)
    flags = """--face_det_batch_size 4 --wav2lip_batch_size 16 --resize_factor 1 --nosmooth --static --fps 25
               --pads 0 10 0 0 --crop 0 -1 0 -1 --box -1 -1 -1 -1 --rotate"""
    assert run([*command(media, outfile=None, face=rotated), *flags.split()]) == 0
    output = out / "results" / "result_voice.mp4"
    assert len(pictures_of(output)) == 10
    printed = capfd.readouterr()
    assert printed.out.startswith("results/result_voice.mp4: 10 frames, 0.40 s")
    assert printed.err == ""


STRANGE = ["two words", 'it\'s "quoted"', "a; rm $(pwd) `id` & |x", "%d%s{}*?[a]\\b", "-dash", "😀 émoji", "new\nline"]


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names(media, out, capfd, name):
    """Unusual names for all input and output files; paths are relative, so that a dash comes first."""
    (out / f"{name}.png").write_bytes((media / "face.png").read_bytes())
    (out / f"{name}.wav").write_bytes((media / "speech.wav").read_bytes())
    (out / f"{name}.safetensors").write_bytes((media / "generator.safetensors").read_bytes())
    argv = [
        f"--face={name}.png", f"--audio={name}.wav", f"--outfile={name}.mp4", f"--checkpoint-path={name}.safetensors",
        f"--save-track={name}.json", "--preview=1", "--backend=torch", "--device=cpu", *BOX_FLAG,
    ]  # fmt: skip
    assert run(argv) == 0
    assert len(pictures_of(out / f"{name}.mp4")) == 10
    endings = (".png", ".wav", ".safetensors", ".mp4", ".json", ".preview.png")
    assert {p.name for p in out.iterdir()} == {name + ending for ending in endings}
    assert capfd.readouterr().out.count("\n") == 3


def test_dash_after_a_folder(media, out, capfd):
    (out / "-x.png").write_bytes((media / "face.png").read_bytes())
    assert run([*command(media, face="./-x.png", outfile="./-y.mkv"), *BOX_FLAG]) == 0
    assert len(pictures_of(out / "-y.mkv")) == 10


def test_frames_without_a_face_are_counted(media, out, capfd):
    """Half of the video shows a wall: its frames are unchanged, and the summary counts them."""
    wall = cv2.resize(cv2.cvtColor(brick(), cv2.COLOR_GRAY2BGR), (SIDE, SIDE))
    video = write_video(out / "in.mp4", [photo()] * 10 + [wall] * 10)
    audio = write_speech(out / "in.wav", 0.8)
    assert run(command(media, face=video, audio=audio)) == 0
    assert "10 of them unchanged" in capfd.readouterr().out


def test_released_generator_works_with_the_detectors_box(media, tmp_path, out, capfd):
    torch.manual_seed(0)
    torch.save({"state_dict": Generator().state_dict(), "global_step": 7}, tmp_path / "wav2lip.pth")
    speech_file = write_speech(tmp_path / "short.wav", 0.16)
    pads = ["--pads", "0", "0", "0", "0", "--blend", "none", "--crf", "4"]
    argv = command(media, checkpoint_path=tmp_path / "wav2lip.pth", audio=speech_file)
    assert run([*argv, *BOX_FLAG, *pads]) == 0
    result = pictures_of(out / "out.mp4")
    assert len(result) == 4
    change = np.abs(np.subtract(*(cv2.cvtColor(x, cv2.COLOR_BGR2GRAY).astype(float) for x in (result[2], photo()))))
    top, bottom, left, right = BOX
    assert (change[top:bottom, left:right] > 30).mean() > 0.2
    change[top - 4 : bottom + 4, left - 4 : right + 4] = 0  # the codec blurs the edge of the box
    assert change.max() < 16


def start(argv: list[str], folder: Path) -> subprocess.Popen[str]:
    """Starts the real command in its own process group."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "inference.py"), *argv], cwd=folder, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores Ctrl-C
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_help_is_a_manual_page_and_imports_no_engine():
    code = "import sys; sys.argv[0] = 'inference.py'; from inference.cli import main\ntry: main(['--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules, 'cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False False\n")
    for part in ("usage: inference.py", "examples:", "exit codes:", "--checkpoint-path FILE", "--keep-audio [LEVEL]"):
        assert part in done.stdout
    assert "--checkpoint_path" not in done.stdout  # listing both spellings would double every line
    assert max(len(line) for line in done.stdout.splitlines()) <= 120


def test_a_refusal_through_the_real_command(media, out):
    for code, argv in ((1, command(media, face="nowhere.mp4")), (2, ["--what"])):
        process = start(argv, out)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout) == (code, "")
        one_line(stderr)
    assert list(out.iterdir()) == []


def wait_for_encoder(process: Command) -> int:
    """Process ID of the command's video encoder (ffmpeg), shortly after its start."""
    for _ in range(2400):
        assert process.poll() is None, process.text()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                started = parent == process.pid and b"video.mp4" in (folder / "cmdline").read_bytes()
            except OSError:  # the process has exited
                continue
            if started:
                time.sleep(0.3)
                return int(folder.name)
        time.sleep(0.05)
    raise AssertionError("the encoder did not start")


def lose_encoder(process: Command) -> None:
    """Kills the command's ffmpeg; again, should the command have started another one."""
    for _ in range(5):
        os.kill(wait_for_encoder(process), signal.SIGKILL)
        try:
            process.wait(20)
            return
        except TimeoutError:
            continue


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the command's children")
def test_three_runs_in_one_folder_of_which_two_are_ended(media, tmp_path, out):
    """All write the same output. One loses its encoder, one gets Ctrl-C, both in the middle of 14,400 frames."""
    minute = write_speech(tmp_path / "minute.wav", 60)
    long = [*command(media, audio=minute, fps=240, preview=2, save_track="track.json"), *BOX_FLAG]
    short = [*command(media, preview=1), *BOX_FLAG]
    runs = [Command("inference.cli", argv, out, tmp_path / f"run{n}") for n, argv in enumerate((long, long, short))]
    try:
        lose_encoder(runs[0])
        wait_for_encoder(runs[1])
        os.killpg(runs[1].pid, signal.SIGINT)  # a terminal signals the whole group
        codes = [process.wait(120) for process in runs]
    finally:
        for process in runs:
            process.kill()
    outputs = [(process.text("stdout"), process.text()) for process in runs]
    assert codes == [1, 130, 0], outputs
    assert [outputs[0][0], outputs[1][0], outputs[2][1]] == ["", "", ""]
    assert "out.mp4 cannot be written: ffmpeg was killed (SIGKILL)" in one_line(outputs[0][1])
    assert "interrupted: no output was written" in one_line(outputs[1][1])
    assert outputs[2][0].startswith("out.mp4: 10 frames, 0.40 s")
    assert len(pictures_of(out / "out.mp4")) == 10
    assert {p.name for p in out.iterdir()} == {"out.mp4", "out.preview.png"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the command's children")
def test_terminated_in_the_middle(media, tmp_path, out):
    """SIGTERM to the command only, not to its encoder."""
    minute = write_speech(tmp_path / "minute.wav", 60)
    argv = [*command(media, audio=minute, fps=240, preview=2), *BOX_FLAG]
    process = Command("inference.cli", argv, out, tmp_path / "run")
    try:
        wait_for_encoder(process)
        os.kill(process.pid, signal.SIGTERM)
        code = process.wait(120)
    finally:
        process.kill()
    assert (code, process.text("stdout")) == (130, "")
    assert "interrupted: no output was written" in one_line(process.text())
    assert not list(out.iterdir())


def test_termination_is_as_before_when_the_command_is_done(refuse, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    refuse(1, ["--face", str(tmp_path / "missing.mp4"), "--audio", str(tmp_path / "missing.wav")])
    assert signal.getsignal(signal.SIGTERM) is before


def test_landmarks_by_fan_say_what_they_need(refuse, media, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    default = command(media, checkpoint_path=None)
    assert "pass it with --fan" in refuse(2, [*default, "--landmarks", "fan"])
    assert "no FAN weights at none.pth" in refuse(2, [*default, "--landmarks", "fan", "--fan", "none.pth"])
    assert "weight file of the landmarks fan" in refuse(2, [*default, "--fan", "none.pth"])
    assert "for the default engine" in refuse(2, [*command(media), "--landmarks", "fan"])
