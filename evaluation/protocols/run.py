"""A whole evaluation: every take's videos are made or looked up, measured, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.metrics import motion
from evaluation.metrics.face_crops import look_at_still
from evaluation.metrics.frechet import frechet_interval
from evaluation.protocols.generate_videos import STILL_AT, VideoMaker, find_made, still_index
from evaluation.protocols.measure import GroundTruth, Instruments, features, measure
from evaluation.protocols.trials import Trial
from evaluation.report.results import BASELINES, MATCHED, SILENT, STILLS, SWAPPED, UNSYNCED, ResultRow, SystemFigure
from preprocessing.errors import MediaError

Features = dict[tuple[str, str, str], list[tuple[np.ndarray, np.ndarray]]]
"""By protocol, system and figure: a clip's (N, D) features, made and real."""


@dataclass
class EvaluationRun:
    """An evaluation under way.

    Attributes:
        maker: makes the baselines' videos and those of its models.
        made: folders of videos that others made, by the names of their rows.
        instruments: what is measured with.
        rows: what has been found.
    """

    maker: VideoMaker
    made: Mapping[str, Path]
    instruments: Instruments
    rows: list[ResultRow] = field(default_factory=list)
    _features: Features = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """All of them, the baselines first."""
        return [*BASELINES, *self.maker.models, *self.made]

    def _taking_part(self, take: Trial) -> list[str]:
        """Nobody is out of sync in silence, and of stills only generators make videos."""
        left_out = {STILLS: BASELINES, SILENT: (UNSYNCED,)}.get(take.protocol, ())
        return [system for system in self.systems if system not in left_out]

    def evaluate(self, takes: Sequence[Trial]) -> tuple[list[ResultRow], list[SystemFigure]]:
        """Rows of all takes, those of a face together, and the figures of whole systems."""
        with tqdm(total=len(takes), unit="take", disable=None) as bar:
            for face, theirs in groupby(takes, key=lambda take: take.face):
                self._face(face, list(theirs), bar)
        return self.rows, list(self._wholes())

    def _face(self, face: Path, takes: Sequence[Trial], bar: tqdm) -> None:
        try:
            truth = GroundTruth.of(self.maker.source(face), self.instruments)
        except (MediaError, OSError) as error:
            for take in takes:
                for system in self._taking_part(take):
                    self.rows.append(ResultRow(take.pair, take.protocol, take.speaker, system, reason=_line(error)))
                bar.update()
            return
        openings: dict[str, np.ndarray] = {}  # with the face's own sound, by system
        for take in sorted(takes, key=lambda take: take.protocol != MATCHED):
            for system in self._taking_part(take):
                self.rows.append(self._system(take, system, truth, openings))
            bar.update()

    def _system(self, take: Trial, system: str, truth: GroundTruth, own: dict[str, np.ndarray]) -> ResultRow:
        """A take's row; `own`: the openings with the face's own sound, by system, from the takes before."""
        row = ResultRow(take.pair, take.protocol, take.speaker, system)
        if take.protocol == STILLS:
            self._stills(take, row, truth)
        else:
            self._measure(take, row, truth)
        opening = np.array(row.curves.get("opening", ()))
        if take.protocol == MATCHED:
            own[system] = opening
        elif take.protocol == SWAPPED and len(opening) and len(own.get(system, ())):
            both = min(len(opening), len(own[system]))
            row.figures["response"] = motion.response(own[system][:both], opening[:both])
        return row

    def _measure(self, take: Trial, row: ResultRow, truth: GroundTruth) -> None:
        found = self._video(take, row)
        if found is None:
            return
        try:
            made = measure(row, found, truth, self.instruments)
        except (MediaError, OSError) as error:
            row.reason = _line(error)
            row.figures.clear()
            return
        if row.protocol != SILENT:
            for key, values in features(made.faces, self.instruments).items():
                pair = values, truth.features[key][: len(values)]
                self._features.setdefault((row.protocol, row.system, key), []).append(pair)

    def _stills(self, take: Trial, row: ResultRow, truth: GroundTruth) -> None:
        """Two videos with one sound make one figure."""
        openings = []
        for still in STILL_AT:
            found = self._video(take, row, still)
            if found is None:
                return
            index = still_index(len(truth.source.track), still)
            try:
                openings.append(motion.opening(look_at_still(found, truth.source, index).faces))
            except (MediaError, OSError) as error:
                row.reason = _line(error)
                return
        both = min(map(len, openings))
        row.curves["opening"] = openings[0].tolist()
        if (agreement := motion.agreement(openings[0][:both], openings[1][:both])) is not None:
            row.figures["other_frame"] = agreement

    def _video(self, take: Trial, row: ResultRow, still: str = "") -> Path | None:
        """Makes or finds a row's video, or says in the row why there is none."""
        if row.system in self.made:
            found = find_made(self.made[row.system], take, still) or "no video was made of it"
        else:
            found = self.maker.make(take, row.system, still)
        if isinstance(found, str):
            row.reason = found
            return None
        row.video = row.video or self._address(found)
        return found

    def _address(self, video: Path) -> str:
        """Relative to the report where it lies in its folder."""
        return video.relative_to(self.maker.out).as_posix() if video.is_relative_to(self.maker.out) else str(video)

    def _wholes(self) -> Iterator[SystemFigure]:
        for (protocol, system, key), clips in self._features.items():
            if found := frechet_interval([made for made, _ in clips], [real for _, real in clips]):
                yield SystemFigure(protocol, system, key, *found)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
