"""A generator adapts to a made video of a real face and real speech: what changes, what stays, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from inference.generator.engine import GeneratorEngine
from inference.pipeline import LipSync
from preprocessing.dataset.windows import CropRegion
from preprocessing.faces.face_track import Detection
from preprocessing.media.audio import load_audio
from syncnet.model import SmallSyncNet
from syncnet.sync_expert import SyncExpert
from syncnet.sync_filter import FilterLimits
from tests.inference.command import command, run
from tests.material import photo, pictures_of, write_generator, write_sound, write_speech, write_video
from training.checkpoint import Checkpoint
from wav2lip.adapt import command as command_module
from wav2lip.adapt import person_clips as person
from wav2lip.adapt.command import AdaptReport, adapt, main
from wav2lip.adapt.fine_tuning import drawing_layers, start_tuning, tuning_recipe, tuning_step, unaugmented
from wav2lip.adapt.person_clips import VideoPart
from wav2lip.generator.checkpoints import load_generator
from wav2lip.generator.data import GeneratorBatch
from wav2lip.generator.model import GeneratorConfig
from wav2lip.generator.train_state import GeneratorTrainState
from wav2lip.generator.unet import build_generator

pytest_plugins = ["tests.inference.bench"]
ROOT = Path(__file__).resolve().parents[2]
SPEECH = ROOT / "assets" / "speech.wav"
LIP = 148  # row of the mouth's line in the made pictures
POINTS = np.array([[124.5, 100.8], [165.5, 100.8], [145, 123.8], [127.5, 141.9], [162.5, 141.9]], np.float32)
SHAPES = {
    "unet": {"network": "unet", "width": 4, "size": 64, "mask_row": 27, "output": "warp", "audio_encoder": "syncnet"},
    "warp": {"width": 2, "size": 96, "mask_row": 40, "output": "warp", "audio_encoder": "syncnet"},
    "paint": {"width": 2, "size": 96, "mask_row": 40, "output": "paint", "audio_encoder": "own"},
}


class Looks:
    """A detector that knows where the face of the made pictures is."""

    def __call__(self, frames):
        return [[Detection(np.array([100, 70, 190, 175], np.float32), 0.9, POINTS)] for _ in frames]


@lru_cache(maxsize=512)
def spoken_picture(open_by: int) -> np.ndarray:
    """The astronaut, whose lower lip and chin lie so many pixels farther down."""
    whole = np.ascontiguousarray(astronaut()[:288, 80:368, ::-1])
    y, x = np.indices(whole.shape[:2], np.float32)
    below, beside = y > LIP, np.exp(-(((x - LIP) / 30) ** 2))
    moved = np.maximum(y - open_by * beside * np.clip(1 - (y - LIP - 4) / 50, 0, 1), LIP)
    picture = cv2.remap(whole, x, np.where(below, moved, y).astype(np.float32), cv2.INTER_LINEAR)
    gap = below & (y < LIP + open_by * np.sqrt(np.clip(1 - ((x - LIP) / 18) ** 2, 0, 1)))
    picture[gap] = (25, 15, 60)
    return picture


def talk(path: Path, frames: int = 80, late: int = 0) -> Path:
    """The mouth opens with the loudness of the recording, `late` frames after it is heard."""
    samples = load_audio(SPEECH)
    loudness = np.sqrt(np.square(samples[: frames * 640]).reshape(frames, 640).mean(1))
    opened = np.roll(np.minimum(loudness / np.percentile(loudness, 90), 1.3), late)
    sound = write_sound(path.with_suffix(".wav"), samples[: frames * 640])
    return write_video(path, [spoken_picture(round(11 * share)) for share in opened.tolist()], sound=sound)


def generator(path: Path, kind: str = "unet") -> Path:
    """A checkpoint of a tiny untrained network, whose last layers are not all zero."""
    torch.manual_seed(1)
    config = GeneratorConfig(**SHAPES[kind])
    network = build_generator(config)
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(0, 0.02)
    crop = {"kind": "points", "size": config.size}
    Checkpoint("generator", vars(config), {}, crop, network.state_dict()).save(path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """talk.mp4, tiny.safetensors and an untrained expert, expert.safetensors."""
    folder = tmp_path_factory.mktemp("made")
    talk(folder / "talk.mp4")
    generator(folder / "tiny.safetensors")
    torch.manual_seed(0)
    network = SmallSyncNet(dimension=16, mouth_size=32).eval()
    SyncExpert(network, CropRegion(left=0.2, top=0.3, side=0.5, size=32)).save(folder / "expert.safetensors")
    return folder


@pytest.fixture
def state(made, tmp_path) -> tuple[GeneratorTrainState, GeneratorBatch]:
    """The start of an adaptation, and a batch."""
    network = load_generator(made / "tiny.safetensors")[0]
    clips = person.make_person_clips(made / "talk.mp4", tmp_path, VideoPart(), Looks())
    recipe = tuning_recipe(network.config, 4, 1e-3, 0)
    return start_tuning(recipe, network, SyncExpert.load(made / "expert.safetensors")), unaugmented(
        clips, network.config
    )


@pytest.fixture(autouse=True)
def _easy(monkeypatch):
    """An untrained expert says nothing of a video, and ours less of a drawn mouth than of a real one."""
    monkeypatch.setattr(person, "LIMITS", FilterLimits(14, 0.0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(path: Path) -> dict[str, Tensor]:
    return load_generator(path)[0].state_dict()


def drawn_keys(kind: str) -> set[str]:
    network = build_generator(GeneratorConfig(**SHAPES[kind]))
    learnt = {id(each) for layers in drawing_layers(network) for each in layers.parameters()}
    return {name for name, each in network.named_parameters() if id(each) in learnt}


# What is learnt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
def test_the_drawing_layers_learn_and_the_others_stay(made, tmp_path, kind):
    base, out = generator(tmp_path / "base.safetensors", kind), tmp_path / "person.safetensors"
    report = learn(made, out, checkpoint=base, steps=3, lr=1e-3)
    before, after, drawn = weights(base), weights(out), drawn_keys(kind)
    assert before.keys() == after.keys()
    assert not any(name.startswith(("audio_encoder", "face_encoder", "stem", "down")) for name in drawn)
    stored = {name: weight.half().float() if weight.is_floating_point() else weight for name, weight in before.items()}
    changed = {name for name, weight in stored.items() if not torch.equal(after[name], weight)}
    assert changed <= drawn
    assert len(changed) > 0.8 * len(drawn)  # a bias in front of a norm has no gradient
    assert (report.out, report.clips) == (out, 1)
    assert report.seconds == pytest.approx(3.2 - abs(report.offset) / 25, abs=0.1)
    with out.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert {value["dtype"] for name, value in header.items() if name != "__metadata__"} <= {"F16", "I64"}


def learn(made: Path, out: Path, **options: Any) -> AdaptReport:
    given = {"checkpoint": made / "tiny.safetensors", "expert": made / "expert.safetensors", "detector": Looks()}
    return adapt(made / "talk.mp4", out, **given | options)


def test_the_person_is_drawn_better(made, tmp_path):
    calls: list[tuple] = []
    report = learn(
        made, tmp_path / "a.safetensors", steps=20, lr=4e-3, progress=lambda *told: calls.append(told)
    )  # fmt: skip
    assert report.after < 0.97 * report.before
    assert calls == [("frame", k, 80) for k in range(1, 81)] + [("step", k, 20) for k in range(1, 21)]


def test_the_same_seed_gives_the_same(made, tmp_path):
    found = []
    for number in range(2):
        learn(made, tmp_path / f"{number}.safetensors", steps=1, seed=5, lr=1e-2)
        found.append(weights(tmp_path / f"{number}.safetensors"))
    assert all(torch.equal(weight, found[1][name]) for name, weight in found[0].items())


def test_the_offset_of_the_video_is_found_and_repaired(made, tmp_path):
    detector, found = Looks(), []
    expert = SyncExpert.load()
    for late in (0, 3):
        folder = tmp_path / str(late)
        clips = person.make_person_clips(talk(tmp_path / f"{late}.mp4", late=late), folder, VideoPart(), detector)
        repaired, score = person.repaired(tmp_path, clips, expert)
        assert [clip.frames for clip in repaired] == [80 - abs(score.offset)]
        assert all(clip.offset == score.offset for clip in repaired)
        found.append(score.offset)
    assert found[1] - found[0] == 3  # the picture of a frame fits the sound of three frames before


def test_a_part_of_the_video(made, tmp_path):
    (clip,) = person.make_person_clips(made / "talk.mp4", tmp_path, VideoPart(start=0.16, end=3.16), Looks())
    assert (clip.header.start, clip.frames) == (0.16, 75)
    sound = load_audio(made / "talk.mp4")[2560:][: 75 * 640]
    assert np.abs(clip.audio[: len(sound)] / 32768 - sound).max() < 1e-4
    assert clip.track.points[0] == pytest.approx(POINTS, abs=1.5)


def test_the_longest_part_that_is_looked_at():
    assert VideoPart().frames(7.0) == (0, 175)
    assert VideoPart(start=10).frames(3600.0) == (250, 250 + 60 * 25)
    assert VideoPart(start=10, end=12).frames(3600.0) == (250, 300)


def test_the_sync_loss_takes_part_from_the_first_step_on(state):
    state, batch = state
    losses = tuning_step(state, batch)
    assert losses.keys() == {"l1", "gradient", "smooth", "paint", "sync"}
    assert state.sync_weight == state.recipe.weights.sync > 0
    assert not state.generator.training
    assert state.step == 1


def test_a_loss_that_is_no_number_changes_nothing(state):
    state, batch = state
    batch.target[0, 0, 50, 30] = torch.nan
    before = {name: weight.clone() for name, weight in state.generator.state_dict().items()}
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        tuning_step(state, batch)
    assert all(torch.equal(weight, before[name]) for name, weight in state.generator.state_dict().items())


def test_the_training_packages_are_not_needed():
    program = """
import sys
for name in ("lightning_fabric", "jsonargparse", "tensorboard", "matplotlib", "dask"):
    sys.modules[name] = None
from wav2lip.adapt.command import parser
parser()
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.fixture
def temporary(made, tmp_path, monkeypatch) -> Path:
    """The folder in which temporary files are made; torch's own, for its compiler, lies elsewhere."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(made / "compiled"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


# What is refused -----------------------------------------------------------------------------------------------------


def refusal(capfd, folder: Path, code: int, **flags: object) -> str:
    """The one line of a command that must fail and leave nothing in the folder."""
    chosen = {"detector": "haar", "steps": 1, "out": folder / "person.safetensors"} | flags
    left = sorted(folder.iterdir())
    assert main([part for name, value in chosen.items() for part in (f"--{name}", str(value))]) == code
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith("wav2lip.adapt: error: ")
    assert told.err.count("\n") == 1
    assert sorted(folder.iterdir()) == left
    return told.err


@pytest.fixture(scope="module")
def bad(tmp_path_factory, made) -> Path:
    """Unsuitable videos."""
    folder, samples = tmp_path_factory.mktemp("bad"), np.zeros(16000 * 4)
    frames, empty = [photo()] * 80, [np.full((96, 96, 3), 90, np.uint8)] * 80
    write_video(folder / "soundless.mp4", frames)
    write_video(folder / "silent.mp4", frames, sound=write_sound(folder / "s.wav", samples))
    write_video(folder / "nobody.mp4", empty, sound=write_speech(folder / "t.wav", 3.2))
    write_video(folder / "short.mp4", frames[:60], sound=write_speech(folder / "u.wav", 2.4))
    write_video(folder / "brief.mp4", [*frames[:50], *(cv2.resize(empty[0], (160, 160)) for _ in range(40))],
                sound=write_speech(folder / "v.wav", 3.6))  # fmt: skip
    cv2.imwrite(str(folder / "photo.png"), photo())
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    return folder


@pytest.mark.parametrize(
    ("face", "why"),
    [
        ("soundless.mp4", "has no audio track"),
        ("silent.mp4", "is silent: without speech"),
        ("nobody.mp4", "shows no face that can be found"),
        ("short.mp4", "lasts 2.40 s from start to end: 3 s or more are needed"),
        ("brief.mp4", "s of it good to learn from: 3 s are needed"),
        ("photo.png", "is an image, not a video"),
        ("noise.mp4", "noise.mp4"),
        ("absent.mp4", "absent.mp4"),
    ],
)
def test_what_cannot_be_learnt_from(made, bad, tmp_path, capfd, face, why):
    assert why in refusal(capfd, tmp_path, 1, face=bad / face, checkpoint=made / "tiny.safetensors")


def test_lips_that_do_not_belong_to_the_sound(made, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(person, "LIMITS", FilterLimits(6, 1.5))
    flags = {"checkpoint": made / "tiny.safetensors", "expert": made / "expert.safetensors"}
    told = refusal(capfd, tmp_path, 1, face=made / "talk.mp4", **flags)
    assert "do not move with its sound (offset" in told


def test_wrong_flags(made, bad, tmp_path, capfd):
    flags = {"face": made / "talk.mp4", "checkpoint": made / "tiny.safetensors"}
    released = write_generator(tmp_path / "box.safetensors")
    checkpoint = Checkpoint.load(released)
    Checkpoint("generator", checkpoint.config, {}, {"kind": "box", "size": 96}, checkpoint.weights).save(released)
    why = refusal(capfd, tmp_path, 2, **flags | {"checkpoint": released})
    assert "uses crops of the kind 'box': only generators for points crops can be adapted" in why
    assert "steps must be 1 or more, not 0" in refusal(capfd, tmp_path, 2, **flags, steps=0)
    assert "lr must be 0 or more, not -1.0" in refusal(capfd, tmp_path, 2, **flags, lr=-1)
    assert "end must lie after start (3 s), not at 2 s" in refusal(capfd, tmp_path, 2, **flags, start=3, end=2)
    assert "select must be one of" in refusal(capfd, tmp_path, 2, **flags, select="tallest")
    assert "must end in .safetensors" in refusal(capfd, tmp_path, 2, **flags, out=tmp_path / "person.pth")
    assert "is also an input" in refusal(capfd, tmp_path, 2, **flags | {"checkpoint": released}, out=released)
    assert "cannot be written" in refusal(capfd, tmp_path, 1, **flags, out=tmp_path / "none" / "a.safetensors")
    assert "does not exist" in refusal(capfd, tmp_path, 2, **flags, expert=tmp_path / "none.safetensors")
    assert "absent" in refusal(capfd, tmp_path, 1, **flags | {"checkpoint": tmp_path / "absent.pth"})


def test_nothing_is_left_of_an_interrupted_one(made, temporary, monkeypatch, capfd):

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_module, "tuning_step", stop)
    flags = {"checkpoint": made / "tiny.safetensors", "expert": made / "expert.safetensors"}
    told = refusal(capfd, temporary, 130, face=made / "talk.mp4", **flags)
    assert "interrupted: no output was written" in told


# inference.py --------------------------------------------------------------------------------------------------------


def test_the_command_and_its_file_in_use(made, tmp_path, capfd):
    out, video = tmp_path / "person.safetensors", tmp_path / "out.mp4"
    flags = {"face": "talk.mp4", "checkpoint": "tiny.safetensors", "expert": "expert.safetensors"}
    files = [part for name, file in flags.items() for part in (f"--{name}", str(made / file))]
    assert main([*files, "--out", str(out), "--steps", "1", "--detector", "haar", "--seed", "3"]) == 0
    told = capfd.readouterr()
    assert told.out.count("\n") == 3
    assert "person.safetensors: adapted in" in told.out
    assert told.err == ""
    speech = write_speech(tmp_path / "speech.wav", 0.4)
    job = f"--face {made / 'talk.mp4'} --audio {speech} --checkpoint {out} --outfile {video} --detector haar"
    assert run([*job.split(), "--backend", "torch"]) == 0
    assert len(pictures_of(video)) == 10


def test_adapting_and_speaking_in_one_go(made, out, temporary, capfd, monkeypatch):
    speech = write_speech(temporary / "speech.wav", 0.4)
    flags = {"face": made / "talk.mp4", "audio": speech, "checkpoint_path": made / "tiny.safetensors"}
    monkeypatch.setattr(person, "LIMITS", FilterLimits(6, 0.02))  # for our own expert
    assert run(command(made, **flags, outfile="plain.mp4")) == 0
    before = sorted(temporary.iterdir())
    assert run([*command(made, **flags, outfile="own.mp4", adapt_steps=4), "--adapt"]) == 0
    assert "adapt " in capfd.readouterr().out.splitlines()[-1]
    assert sorted(temporary.iterdir()) == before
    plain, own = (np.stack(pictures_of(out / f"{name}.mp4")).astype(int) for name in ("plain", "own"))
    changed = np.abs(plain - own).mean((0, 3))
    assert changed[LIP - 15 : LIP + 20, LIP - 20 : LIP + 20].mean() > 3 * changed[:80].mean()


def test_what_adapt_does_not_go_with(made, media, refuse):
    face = {"face": made / "talk.mp4", "checkpoint_path": made / "tiny.safetensors"}
    assert "cannot be combined with rotate" in refuse(2, [*command(media, **face), "--adapt", "--rotate"])
    assert "cannot be combined with box" in refuse(2, [*command(media, **face), "--adapt", "--box", "1", "9", "1", "9"])
    assert "adapt_steps must be between 1 and" in refuse(2, command(media, **face, adapt_steps=0))
    assert "is an image, not a video" in refuse(
        1, [*command(media, checkpoint_path=face["checkpoint_path"]), "--adapt"]
    )


def test_a_generator_of_unknown_origin_cannot_adapt(made, media, tmp_path):
    loaded = LipSync.load(made / "tiny.safetensors", "cpu", "torch")
    model = LipSync(GeneratorEngine(loaded.engine.generator, loaded.engine.audio))
    with pytest.raises(ValueError, match="adapt needs a generator loaded with"):
        model(made / "talk.mp4", media / "speech.wav", tmp_path / "out.mp4", adapt=True, detector="haar")
    assert not (tmp_path / "out.mp4").exists()
