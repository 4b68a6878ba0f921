"""Windows: geometry, audio alignment, spacing, and a reproducible stream."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from preprocessing.dataset.augmentation import Augmentation, ImageTransform, MelTransform
from preprocessing.dataset.clips import Clip, speaker_weights
from preprocessing.dataset.manifest import ClipRow, write_rows
from preprocessing.dataset.windows import (
    CropRegion,
    WindowDataset,
    batches,
    face_window,
    mel_windows,
    open_splits,
    random_starts,
    resample,
)
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.media.mel import FRAME_LEAD, mel_window
from tests.material import change_clip, write_numbered_clip

POINTS = np.array([[206, 108], [246, 108], [228, 130], [210, 148], [244, 148]], np.float64)  # the astronaut's face
FRAMES = 24
MOUTH = CropRegion(left=1 / 6, top=0.25, side=2 / 3, size=64)


def stored_face(size: int, margin: int) -> np.ndarray:
    """A points crop of the astronaut of the given size, with its margin."""
    matrix = CropGeometry("points", size).matrix(np.zeros(4), POINTS, (512, 512))
    matrix[:, 2] += margin
    return crop(np.ascontiguousarray(astronaut()[..., ::-1]), matrix, size + 2 * margin)


@pytest.fixture(scope="module")
def still(tmp_path_factory) -> dict[int, Clip]:
    """Clips whose frames are all the same face, by stored size."""
    folder = tmp_path_factory.mktemp("still")
    clips = {}
    for size, margin in ((60, 7), (96, 12), (160, 20), (288, 36)):
        faces = np.repeat(stored_face(size, margin)[None], FRAMES, axis=0)
        clips[size] = Clip.open(write_numbered_clip(folder / f"{size}.safetensors", faces, margin=margin))
    return clips


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> Clip:
    """A clip whose frame k has the value 10 k everywhere and whose mel column c has the value c / 100."""
    faces = np.broadcast_to(10 * np.arange(FRAMES, dtype=np.uint8)[:, None, None, None], (FRAMES, 112, 112, 3))
    mel = np.tile(np.arange(1 + FRAMES * 16 // 5, dtype=np.float32) / 100, (80, 1))
    path = tmp_path_factory.mktemp("counted") / "counted.safetensors"
    return Clip.open(write_numbered_clip(path, faces, mel=mel))


def test_a_region_is_where_it_is_said_to_be_whatever_size_is_stored(still):
    for size, clip in still.items():
        # The mouth square starts at a sixth of the side from the left and a quarter from the top of the network
        # input square; the map is between pixel centers.
        corner = clip.margin + np.array([size / 6, size / 4]) - 0.5
        matrix = MOUTH.matrix(clip)
        assert matrix @ [*corner, 1] == pytest.approx([-0.5, -0.5, 1])
        assert matrix @ [*(corner + size * 2 / 3), 1] == pytest.approx([63.5, 63.5, 1])
    assert MOUTH.scale == pytest.approx(1)
    assert CropRegion(size=192).scale == pytest.approx(2)


@pytest.mark.parametrize("region", [CropRegion(), MOUTH])
@pytest.mark.parametrize("size", [60, 96, 160])
def test_without_a_view_a_window_is_the_plain_crop(still, region, size):
    clip = still[size]
    window = face_window(clip, region, 3, 5)
    assert window.shape == (5, region.size, region.size, 3)
    expected = crop(clip.faces(3, 1)[0], region.matrix(clip)[:2], region.size)
    # A plain whole-pixel crop repeats its edge, where a window uses the margin.
    assert np.abs(window.astype(int) - expected)[:, 2:-2, 2:-2].max() <= 1


@pytest.mark.parametrize("region", [CropRegion(), CropRegion(size=128), MOUTH])
@pytest.mark.parametrize("size", [60, 96, 160])
def test_turning_enlarging_mirroring_and_moving_cost_one_interpolation(still, region, size):
    clip, view = still[size], ImageTransform(turn=4, zoom=1.07, flip=True, shift=(2, -3))
    matrix = (view.matrix(region.size) @ region.matrix(clip))[:2]
    expected = crop(clip.faces(3, 1)[0], matrix, region.size)
    assert np.abs(face_window(clip, region, 3, 5, view).astype(int) - expected).max() <= 1


def test_what_has_the_size_asked_for_is_taken_as_it_is(still):
    clip = still[96]
    assert np.array_equal(face_window(clip, CropRegion(), 0, 3), clip.faces(0, 3)[:, 12:108, 12:108])
    assert np.array_equal(face_window(clip, MOUTH, 0, 3), clip.faces(0, 3)[:, 36:100, 28:92])


def test_clips_of_any_size_show_the_same_face(still):
    shown = {size: face_window(clip, MOUTH, 0, 1)[0].astype(int) for size, clip in still.items()}
    assert np.abs(shown[160] - shown[96]).mean() < 4
    assert np.abs(shown[288] - shown[96]).mean() < 4
    moved = np.roll(shown[96], 1, axis=1)
    for size in (160, 288):
        assert np.abs(shown[size] - shown[96]).mean() < 0.5 * np.abs(shown[size] - moved)[:, 1:].mean()


@pytest.mark.parametrize("shift", [(5, 0), (0, -3), (-4, 2)])
def test_a_jitter_moves_the_face_by_exactly_the_pixels_asked_for(still, shift):
    right, down = shift
    plain = face_window(still[96], CropRegion(), 0, 4)
    moved = face_window(still[96], CropRegion(), 0, 4, ImageTransform(shift=shift))
    assert np.array_equal(moved[:, 12:84, 12:84], plain[:, 12 - down : 84 - down, 12 - right : 84 - right])
    stored = still[96].faces(0, 1)[0]  # pixels that move in come from the margin
    assert np.array_equal(moved[0], stored[12 - down : 108 - down, 12 - right : 108 - right])
    for clip in (still[160], still[60]):
        plain, moved = (
            face_window(clip, CropRegion(), 0, 1, view)[0].astype(int)
            for view in (ImageTransform(), ImageTransform(shift=shift))
        )
        difference = moved[12:84, 12:84] - plain[12 - down : 84 - down, 12 - right : 84 - right]
        assert np.abs(difference).max() <= 1


def test_a_flip_mirrors_every_frame_of_the_window(still, counted):
    for size, clip in still.items():
        plain, flipped = (
            face_window(clip, MOUTH, 2, 5, view) for view in (ImageTransform(), ImageTransform(flip=True))
        )
        assert np.abs(plain[:, :, ::-1].astype(int) - flipped).max() <= (0 if size == 96 else 1)
    flipped = face_window(counted, CropRegion(), 2, 5, ImageTransform(flip=True))
    assert flipped[:, 40, 40, 0].tolist() == [20, 30, 40, 50, 60]  # in the same order


def test_all_frames_of_a_window_are_seen_alike(still):
    rng = np.random.default_rng(0)
    for _ in range(15):
        view = ImageTransform.draw(Augmentation(noise=0), rng)
        window = face_window(still[160], CropRegion(), 0, 6, view)
        assert (window == window[0]).all()
        assert np.array_equal(window, face_window(still[160], CropRegion(), 6, 6, view))


def test_a_window_is_those_frames_and_lies_inside_the_clip(counted):
    assert face_window(counted, MOUTH, 1, 4)[:, 9, 9, 1].tolist() == [10, 20, 30, 40]
    assert face_window(counted, CropRegion(), FRAMES - 5, 5)[-1, 0, 0, 0] == 10 * (FRAMES - 1)
    with pytest.raises(ValueError, match=f"0 to {FRAMES - 1}"):
        face_window(counted, CropRegion(), FRAMES - 4, 5)


@pytest.mark.parametrize("scale", [1 / 2.1, 1 / 2.4, 1 / 3, 1 / 5.2])
def test_shrinking_by_two_or_more_does_not_alias(scale):
    rows, columns = np.indices((400, 400))
    image = np.repeat((255 * ((rows + columns) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    matrix = np.array([[scale, 0.02 * scale, 1.3], [-0.02 * scale, scale, -2.1]])
    square = resample(image, matrix, 60).astype(float)
    assert square[5:55, 5:55].mean() == pytest.approx(127.5, abs=1)
    assert square[5:55, 5:55].std() < 3
    raw = cv2.warpAffine(image, matrix, (60, 60))[5:55, 5:55]
    assert raw.std() > 10  # without averaging


@pytest.mark.parametrize("scale", [0.15, 0.31, 0.47, 0.5, 0.6, 1.3])
def test_shrinking_does_not_move_the_face(scale):
    y, x = np.indices((403, 397))
    light = 255 * np.exp(-((x - 190.3) ** 2 + (y - 201.8) ** 2) * scale**2 / 32)
    place = np.array([30.2, 34.7])
    matrix = np.hstack([scale * np.eye(2), (place - scale * np.array([190.3, 201.8]))[:, None]])
    square = resample(np.repeat(light.round().astype(np.uint8)[..., None], 3, axis=2), matrix, 64)[..., 0].astype(float)
    v, u = np.indices((64, 64))
    assert [(u * square).sum() / square.sum(), (v * square).sum() / square.sum()] == pytest.approx(place, abs=0.05)


@pytest.mark.parametrize("lead", [FRAME_LEAD, Fraction(0)])
def test_each_window_hears_what_the_one_rule_says(counted, lead):
    mel = counted.mel
    windows = mel_windows(mel, range(FRAMES), lead)
    assert windows.shape == (FRAMES, 1, 80, 16)
    assert windows.dtype == np.float32
    for frame in range(FRAMES):
        assert np.array_equal(windows[frame, 0], mel_window(mel, Fraction(frame, 25), lead=lead))


def test_windows_at_the_clips_start_and_end_hear_silence_beyond_it(counted):
    windows = mel_windows(counted.mel, [0, FRAMES - 1], mel_transform=MelTransform(gain=0.5, bands=((0, 80),)))[:, 0]
    # The window of frame 0 starts four columns before the clip, that of the last frame at column 70 of 77.
    assert (windows[0, :, :4] == -4).all()
    assert (windows[0, :, 4:] > 0).all()
    assert (windows[1, :, :7] > 0).all()
    assert (windows[1, :, 7:] == -4).all()


def test_a_disguised_sound_is_one_sound_for_all_windows(counted):
    mel, mel_transform = counted.mel, MelTransform(gain=0.3, noise=0.2, pauses=((0.5, 4),), seed=3)
    before = mel.copy()
    windows = mel_windows(mel, [5, 10, 15], Fraction(0), mel_transform)[:, 0]  # of columns 16, 32 and 48
    whole = mel_transform.apply(mel[:, 16:64])
    assert np.array_equal(np.concatenate(windows, axis=1), whole)
    overlapping = mel_windows(mel, [5, 6], Fraction(0), mel_transform)[:, 0]  # of columns 16 and 19
    assert np.array_equal(overlapping[0, :, 3:], overlapping[1, :, :13])
    assert np.array_equal(mel, before)


def test_an_offset_is_heard_later(counted):
    late = mel_windows(counted.mel, [4, 8], mel_transform=MelTransform(offset=2 / 25))
    assert np.array_equal(late, mel_windows(counted.mel, [6, 10]))
    early = mel_windows(counted.mel, [4, 8], mel_transform=MelTransform(offset=-1 / 80))
    assert (mel_windows(counted.mel, [4, 8]) - early)[..., 0] == pytest.approx(0.01, abs=1e-6)  # one column


@pytest.mark.parametrize(("nearest", "farthest"), [(1, None), (2, 2), (3, 6), (5, None)])
def test_windows_keep_their_distance(nearest, farthest):
    rng = np.random.default_rng(0)
    firsts, gaps, lasts = set(), set(), set()
    for _ in range(1500):
        starts = random_starts(40, 4, rng, length=5, nearest=nearest, farthest=farthest)
        assert starts.shape == (4,)
        firsts.add(int(starts[0]))
        lasts.add(int(starts[-1]))
        gaps.update(int(b - a) for a, b in pairwise(starts))
    assert min(firsts) == 0
    assert max(lasts) == 35  # the last window ends with the clip
    assert gaps == set(range(nearest, (farthest or 35 // 3) + 1))


def test_one_window_is_anywhere():
    rng = np.random.default_rng(0)
    assert {int(random_starts(9, 1, rng, length=5)[0]) for _ in range(200)} == {0, 1, 2, 3, 4}
    assert random_starts(5, 1, rng, length=5).tolist() == [0]


def test_windows_come_nearer_in_a_short_clip_and_do_not_fit_into_a_shorter_one():
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert np.diff(random_starts(15, 4, rng, length=5, nearest=2, farthest=9)).max() <= 3
    assert random_starts(11, 4, rng, length=5, nearest=2, farthest=9).tolist() == [0, 2, 4, 6]
    with pytest.raises(ValueError, match="4 windows of 5 frames, 2 apart, do not fit into 10 frames"):
        random_starts(10, 4, rng, length=5, nearest=2)
    with pytest.raises(ValueError, match="1 windows of 5 frames"):
        random_starts(4, 1, rng, length=5)


def window_of(clip: Clip, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    first = int(random_starts(clip.frames, 1, rng, length=5)[0])
    return clip.speaker, face_window(clip, MOUTH, first, 5, ImageTransform.draw(Augmentation(), rng))


@pytest.fixture(scope="module")
def speakers(tmp_path_factory) -> list[Clip]:
    """Four clips of one speaker and one of another."""
    folder = tmp_path_factory.mktemp("speakers")
    faces = np.repeat(stored_face(64, 8)[None], 8, axis=0)
    paths = [write_numbered_clip(folder / f"{n}.safetensors", faces, speaker="ab"[n == 4]) for n in range(5)]
    return [Clip.open(path) for path in paths]


def test_the_stream_is_the_same_for_any_number_of_workers_and_from_any_step_on(speakers):
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (9, 9), 2)  # starts threads that workers do not inherit
    draws = WindowDataset(speakers, speaker_weights(speakers), window_of, seed=7)
    runs = [
        list(batches(draws, 3, range(*steps), workers=workers, collate=list))
        for steps, workers in (((0, 5), 0), ((0, 5), 1), ((0, 5), 2), ((3, 5), 2))
    ]
    assert [len(run) for run in runs] == [5, 5, 5, 2]
    whole = [window for batch in runs[0] for window in batch]
    for run in runs[1:]:
        windows = [window for batch in run for window in batch]
        for (speaker, faces), (name, expected) in zip(windows, whole[-len(windows) :], strict=True):
            assert speaker == name
            assert np.array_equal(faces, expected)
    assert len({faces.tobytes() for _, faces in whole}) == 15
    other = WindowDataset(speakers, speaker_weights(speakers), window_of, seed=8)
    assert not np.array_equal(other[0][1], whole[0][1])


def test_arrays_are_stacked_to_tensors(speakers):
    draws = WindowDataset(
        speakers, speaker_weights(speakers), lambda clip, rng: (rng.random(3), np.zeros((2, 2))), seed=0
    )
    first, second = next(iter(batches(draws, 4, range(1))))
    assert first.shape == (4, 3)
    assert second.shape == (4, 2, 2)


def test_clips_are_drawn_by_their_weights(speakers):
    draws = WindowDataset(speakers, speaker_weights(speakers), lambda clip, rng: clip.path.stem, seed=0)
    drawn = [draws[number] for number in range(3000)]
    # Square roots 2 and 1: the speaker with four clips is drawn two thirds of the time.
    assert [drawn.count(name) / 3000 for name in "01234"] == pytest.approx([1 / 6] * 4 + [1 / 3], abs=0.025)
    never = WindowDataset(speakers, np.array([0, 1, 0, 2, 0]), lambda clip, rng: clip.path.stem, seed=0)
    assert set(islice(map(never.__getitem__, range(10**6)), 200)) == {"1", "3"}


def test_a_damaged_clip_is_named_from_a_worker(speakers, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(speakers[0].path.read_bytes()[:-9000])
    clips = [Clip(broken, listed=("a", 8, 64))]
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"broken\.safetensors"):
            list(
                batches(WindowDataset(clips, np.ones(1), window_of, seed=0), 2, range(2), workers=workers, collate=list)
            )


def make_folder(folder: Path, kind: str = "points", **splits: str) -> Path:
    """A folder of 8-frame clips, one per name, with a manifest if any has a split."""
    folder.mkdir()
    faces = np.repeat(stored_face(64, 8)[None], 8, axis=0)
    for name in splits:
        write_numbered_clip(folder / f"{name}.safetensors", faces)
    rows = [
        ClipRow(f"{name}.safetensors", "v.mp4", 0, 0, 0.0, 0.32, 8, name, split, size=64)
        for name, split in splits.items()
    ]
    if any(splits.values()):
        write_rows(folder / "manifest.csv", rows)
    return folder


def names(clips: tuple[list[Clip], list[Clip]]) -> list[list[str]]:
    return [[clip.path.stem for clip in part] for part in clips]


def test_a_folders_own_splits_are_used(tmp_path):
    folder = make_folder(tmp_path / "a", a="train", b="val", c="test", d="train")
    assert names(open_splits(folder, None, 8)) == [["a", "d"], ["b"]]
    other = make_folder(tmp_path / "b", e="train", f="test")
    assert names(open_splits(other, None, 8)) == [["e"], []]
    assert names(open_splits(folder, other, 8)) == [["a", "d"], ["e", "f"]]  # all clips of a separate validation folder


def test_a_folder_without_a_manifest_is_trained_on_as_a_whole(tmp_path):
    folder = make_folder(tmp_path / "a", a="", b="")
    assert names(open_splits(folder, None, 8)) == [["a", "b"], []]
    with pytest.raises(ValueError, match="no clip of 9 frames or more"):
        open_splits(folder, None, 9)


def test_crops_of_another_kind_are_refused(tmp_path):
    box = tmp_path / "box"
    box.mkdir()
    faces = np.repeat(stored_face(64, 8)[None], 8, axis=0)
    path = write_numbered_clip(box / "x.safetensors", faces)
    header = replace(Clip.open(path).header, crop=CropGeometry("box", 64))
    change_clip(path, header.metadata())
    with pytest.raises(ValueError, match="'box' crops; this training needs 'points'"):
        open_splits(box, None, 8)
    points = make_folder(tmp_path / "points", a="")
    with pytest.raises(ValueError, match=r"x\.safetensors holds 'box' crops"):
        open_splits(points, box, 8)
    assert names(open_splits(box, None, 8, kind="box")) == [["x"], []]
