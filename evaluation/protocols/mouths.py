"""Mouth shape and look of the videos of an evaluation, against the driver's and the face's own mouth."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from evaluation.metrics.mesh.judges import MeshJudge, observe, untouched
from evaluation.metrics.mesh.mouth_shape import (
    MouthLook,
    compare_look,
    compare_motion,
    motion_in_silence,
    speech_frames,
)
from evaluation.metrics.sync import RecordingOffset, in_sync
from evaluation.protocols.trials import Trial
from evaluation.report.results import COPY, MATCHED, REAL, SILENT, UNSYNCED
from preprocessing.errors import MediaError
from preprocessing.media.audio import as_int16, load_audio

logger = logging.getLogger(__name__)

CACHED = 8  # own and driving mouths kept


class MouthMeasurement:
    """Measures mouths on mesh points.

    Args:
        judge: who finds the points.
        seconds: maximum length of the videos.
        offset: AV offset of a driver's recording, by which its mouth is shifted before the comparison.
    """

    def __init__(self, judge: MeshJudge, seconds: float, offset: RecordingOffset = in_sync) -> None:
        self.judge, self.seconds = judge, seconds
        self._offset = lru_cache(maxsize=None)(offset)
        self._known = lru_cache(maxsize=CACHED)(self._look)
        self._speaking: tuple[Path | None, dict[str, MouthLook]] = (None, {})  # of the last face, by system

    def figures(self, trial: Trial, system: str, video: Path) -> Iterator[tuple[str, float]]:
        """Figures of a system's video of a trial; none where the judge finds no face.

        Motion is compared with the driver's if the sound is that of a video with a face; motion in silence requires
        that the system's matched video of this face was measured before.
        """
        made, own = self._look(video), self._known(trial.face)
        if made is None or own is None:
            return
        if trial.protocol == SILENT:
            yield from self._silence(trial, system, made)
            return
        if trial.protocol == MATCHED:
            self._remember(trial, system, made)
        driven_by = driver_of(trial, system)
        driver = self._known(driven_by)
        if driver is not None:
            speech = speech_frames(as_int16(load_audio(video)), len(driver.points))
            offset = 0 if _same_picture(trial, system) else self._offset(driven_by)
            yield from compare_motion(made, driver, speech, offset)
        yield from compare_look(made, own)
        if (change := untouched(video, trial.face, own, self.seconds)) is not None:
            yield "untouched", change

    def _silence(self, trial: Trial, system: str, made: MouthLook) -> Iterator[tuple[str, float]]:
        face, speaking = self._speaking
        if face == trial.face and system in speaking:
            ratio = motion_in_silence(made, speaking[system])
            if ratio is not None:
                yield "silence_motion", ratio

    def _remember(self, trial: Trial, system: str, made: MouthLook) -> None:
        if self._speaking[0] != trial.face:
            self._speaking = trial.face, {}
        self._speaking[1][system] = made

    def _look(self, path: Path) -> MouthLook | None:
        try:
            return observe(path, self.judge, self.seconds)
        except MediaError as error:  # sound alone, or no face
            logger.warning("mouth shape not measured: %s", error)
            return None


def driver_of(trial: Trial, system: str) -> Path:
    """The file whose sound a system's video of a spoken trial has; the face's video for the face's own sound."""
    sound = {REAL: trial.own, UNSYNCED: trial.other}.get(system, trial.audio)
    return trial.face if sound is None or sound == trial.own else sound


def _same_picture(trial: Trial, system: str) -> bool:
    """Whether a system's video shows the driver's own mouth as filmed."""
    return system == REAL or (system == COPY and driver_of(trial, system) == trial.face)
