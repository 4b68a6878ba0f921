"""Rendered regions of a frame: only they are converted to BGR and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from preprocessing.faces.mesh import HeadPose
from preprocessing.media.planar_frame import PlanarFrame
from wav2lip.renderer.triangulation import OVAL, vertices_in_frame
from wav2lip.renderer.warp import SKIN_SIGMA, Rectangle

SLACK = 6  # pixels around all that may move, for interpolation


@dataclass(frozen=True)
class Patch:
    """A region of a frame before and after rendering.

    Attributes:
        area: the region.
        before, after: (h, w, 3) uint8 BGR.
    """

    area: Rectangle
    before: np.ndarray
    after: np.ndarray

    def paste(self, frame: np.ndarray) -> None:
        """Writes the pixels that changed into a frame: BGR, or planar."""
        if isinstance(frame, PlanarFrame):
            frame.paste(self.area.top, self.area.left, self.before, self.after)
        else:
            np.copyto(self.area.view(frame), self.after, where=self.after != self.before)


def pasted(frame: np.ndarray, patches: Iterable[Patch]) -> np.ndarray:
    """A new frame with the patches; the frame itself if there are none."""
    result = frame
    for patch in patches:
        if result is frame:
            result = frame.copy()
        patch.paste(result)
    return result


def moving_area(
    frame: np.ndarray, points: np.ndarray, target: np.ndarray, pose: HeadPose
) -> Rectangle:  # fmt: skip
    """The part of a frame, with even sides and corners, in which (206, 3) points can move pixels to their target."""
    vertices = [vertices_in_frame(points, pose), vertices_in_frame(points, pose, target)]
    reach = np.vstack([each[: -len(OVAL), :2] for each in vertices])
    height, width = frame.shape[:2]
    area = Rectangle.around(reach, 2 * SKIN_SIGMA * float(pose.scale) + SLACK, width, height)
    left, top = area.left // 2 * 2, area.top // 2 * 2
    return Rectangle(left, top, min(area.right + area.right % 2, width), min(area.bottom + area.bottom % 2, height))


def shifted(pose: HeadPose, area: Rectangle) -> HeadPose:
    """A head pose in the coordinates of a region."""
    return replace(pose, translation=pose.translation - (area.left, area.top, 0))
