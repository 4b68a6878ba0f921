"""Choice of the reference crop, in speech and in silence."""

import numpy as np

from inference.generator.generation import FaceCrop, ReferenceSelector

SILENT, LOUD = np.full((1, 80, 16), -4, np.float32), np.zeros((1, 80, 16), np.float32)


def crop(level: int) -> FaceCrop:
    pixels = np.full((96, 96, 3), level, np.uint8)
    return FaceCrop(pixels, np.eye(2, 3), pixels, np.eye(2, 3))


def chosen(selector: ReferenceSelector, levels, mels, shots=None) -> list[int]:
    """Gray level of the reference chosen for each of a sequence of flat crops."""
    shots = shots or [0] * len(levels)
    references = [selector.reference(crop(k), mel, shot) for k, mel, shot in zip(levels, mels, shots, strict=True)]
    return [int(one.pixels[0, 0, 0]) for one in references]


def painting() -> ReferenceSelector:
    return ReferenceSelector(40, -4.0, hold=False)


def warping() -> ReferenceSelector:
    return ReferenceSelector(40, -4.0, hold=True)


def test_a_painter_gets_each_frames_own_pixels():
    assert chosen(painting(), [100, 101], [LOUD, LOUD]) == [100, 101]


def test_silence_holds_the_first_frame_until_speech_comes_back():
    mels = [SILENT, SILENT, LOUD, SILENT, SILENT]
    assert chosen(painting(), [100, 101, 102, 103, 104], mels) == [100, 100, 102, 103, 103]


def test_a_moved_head_or_a_cut_takes_another_frame():
    levels, shots = [100, 105, 120, 121], [0, 0, 0, 1]
    assert chosen(painting(), levels, [SILENT] * 4, shots) == [100, 100, 120, 121]
    assert chosen(warping(), levels, [SILENT] * 4, shots) == [100, 100, 120, 121]


def test_without_rest_a_painter_holds_nothing():
    assert chosen(ReferenceSelector(40, -np.inf, hold=False), [100, 101], [SILENT, SILENT]) == [100, 101]


def test_a_warper_holds_a_frame_as_long_as_the_head_stays():
    """Up to 8 levels in speech; 12 in silence, where changes are more visible."""
    assert chosen(warping(), [100, 104, 108, 109, 110], [LOUD] * 5) == [100, 100, 100, 109, 109]
    assert chosen(warping(), [100, 109, 112, 113], [SILENT] * 4) == [100, 100, 100, 113]


def test_a_warper_takes_an_earlier_frame_again_when_the_head_comes_back():
    assert chosen(warping(), [100, 130, 105, 100], [LOUD] * 4) == [100, 130, 100, 100]
    assert chosen(warping(), [100, 130, 107], [LOUD] * 3) == [
        100,
        130,
        107,
    ]  # a change of 7 is small enough to hold, not to reuse
    assert chosen(warping(), [100, 130, 100], [LOUD] * 3, [0, 0, 1]) == [100, 130, 100]


def test_what_is_kept_is_bounded():
    """After 16 others the first reference is dropped, so a crop similar to it becomes its own reference."""
    away = [10 * k for k in range(1, 18)]
    assert chosen(warping(), [0, *away[:15], 3], [LOUD] * 17)[-1] == 0
    assert chosen(warping(), [0, *away[:16], 3], [LOUD] * 18)[-1] == 3


def test_only_the_part_above_the_mask_is_compared():
    first, second = crop(100), crop(100)
    second.pixels[40:] = 250
    selector = warping()
    assert selector.reference(first, LOUD, 0) is selector.reference(second, LOUD, 0)
