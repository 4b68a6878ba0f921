"""AV offsets of recordings.

A mouth made from a late sound is late, too: the speaker's mouth as filmed must be put in sync first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from preprocessing.errors import MediaError
from preprocessing.faces.detectors import FaceDetector
from syncnet.score import open_scorer, score_video
from syncnet.sync_expert import JUDGE

logger = logging.getLogger(__name__)

MIN_CONFIDENCE = 0.15  # of the judge; recordings in sync have 0.2 to 0.55

RecordingOffset = Callable[[Path], int]
"""From a video to its AV offset in frames at 25 fps, positive if the audio is early (`syncnet.offset.SyncScore`)."""


def in_sync(path: Path) -> int:
    """The offset of any video if all recordings are taken as they are."""
    return 0


def judged_offset(detector: FaceDetector) -> RecordingOffset:
    """Offsets as our judge hears and sees them; 0 where it is not confident or finds no speech or face.

    The judge never saw the people of the val split, nor was any generator trained with it.
    """
    scorer = open_scorer(JUDGE)

    def offset(path: Path) -> int:
        try:
            score = score_video(path, scorer, detector).speaker.score
        except MediaError as error:
            logger.warning("AV offset not measured: %s", error)
            return 0
        return score.offset if score and score.confidence >= MIN_CONFIDENCE else 0

    return offset
