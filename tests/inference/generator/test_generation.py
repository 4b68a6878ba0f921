"""Choice of the reference crop, in speech and in silence."""

import numpy as np

from inference.generator.generation import FaceCrop, ReferenceSelector

SILENT, LOUD = np.full((1, 80, 16), -4, np.float32), np.zeros((1, 80, 16), np.float32)


def crop(level: int) -> FaceCrop:
    pixels = np.full((96, 96, 3), level, np.uint8)
    return FaceCrop(pixels, np.eye(2, 3))


def chosen(references: ReferenceSelector, levels, mels, shots=None) -> list[int]:
    """Gray level of the reference chosen for each of a sequence of flat crops."""
    shots = shots or [0] * len(levels)
    found = [references.reference(crop(k), mel, shot) for k, mel, shot in zip(levels, mels, shots, strict=True)]
    return [int(one.pixels[0, 0, 0]) for one in found]


def selector() -> ReferenceSelector:
    return ReferenceSelector(40, -4.0)


def test_in_speech_each_frame_is_its_own_reference():
    assert chosen(selector(), [100, 101], [LOUD, LOUD]) == [100, 101]


def test_silence_holds_the_first_frame_until_speech_comes_back():
    mels = [SILENT, SILENT, LOUD, SILENT, SILENT]
    assert chosen(selector(), [100, 101, 102, 103, 104], mels) == [100, 100, 102, 103, 103]


def test_a_moved_head_or_a_cut_takes_another_frame():
    levels, shots = [100, 105, 120, 121], [0, 0, 0, 1]
    assert chosen(selector(), levels, [SILENT] * 4, shots) == [100, 100, 120, 121]
    assert chosen(selector(), [100, 109, 112, 113], [SILENT] * 4) == [100, 100, 100, 113]  # up to 12 levels


def test_without_rest_nothing_is_held():
    assert chosen(ReferenceSelector(40, -np.inf), [100, 101], [SILENT, SILENT]) == [100, 101]


def test_only_the_part_above_the_mask_is_compared():
    first, second = crop(100), crop(100)
    second.pixels[40:] = 250
    references = selector()
    assert references.reference(first, SILENT, 0) is references.reference(second, SILENT, 0)
