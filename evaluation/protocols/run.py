"""An evaluation run: the videos of every trial are generated or looked up, measured and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from evaluation.metrics import motion
from evaluation.metrics.distributions import distribution_metrics
from evaluation.metrics.face_crops import read_still_footage
from evaluation.metrics.frechet import frechet_interval
from evaluation.protocols.generate_videos import STILL_POSITIONS, VideoMaker, find_video, still_index
from evaluation.protocols.measure import MOUTH_FEATURES, GroundTruth, MetricNetworks, features, measure
from evaluation.protocols.mouths import MouthMeasurement
from evaluation.protocols.trials import Trial
from evaluation.report.results import BASELINES, MATCHED, SILENT, STILLS, SWAPPED, UNSYNCED, ResultRow, SystemMetric
from preprocessing.errors import MediaError
from training.progress import training_steps

Features = dict[tuple[str, str, str], list[tuple[np.ndarray, np.ndarray]]]
"""By protocol, system and metric: (N, D) features of each clip, generated and real."""


@dataclass
class EvaluationRun:
    """A running evaluation.

    Attributes:
        maker: generates the videos of its models and of the baselines.
        made: folders of existing videos by system name.
        networks: networks that the metrics use.
        mouths: measures mouth shape on mesh points; None leaves it out.
        rows: results so far.
    """

    maker: VideoMaker
    made: Mapping[str, Path]
    networks: MetricNetworks
    mouths: MouthMeasurement | None = None
    rows: list[ResultRow] = field(default_factory=list)
    _features: Features = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """All systems, baselines first."""
        return [*BASELINES, *self.maker.models, *self.made]

    def _systems_for(self, trial: Trial) -> list[str]:
        """Silence has no unsynced baseline, and only generators make videos from stills."""
        excluded = {STILLS: BASELINES, SILENT: (UNSYNCED,)}.get(trial.protocol, ())
        return [system for system in self.systems if system not in excluded]

    def evaluate(self, trials: Sequence[Trial]) -> tuple[list[ResultRow], list[SystemMetric]]:
        """The rows of all trials, which must be grouped by face, and the system-level metrics."""
        done = training_steps(range(len(trials)), 0, len(trials))
        next(done, None)
        for face, face_trials in groupby(trials, key=lambda trial: trial.face):
            self._evaluate_face(face, list(face_trials), done)
        return self.rows, list(self._system_metrics())

    def _evaluate_face(self, face: Path, trials: Sequence[Trial], done: Iterator[int]) -> None:
        try:
            truth = GroundTruth.measure(self.maker.source(face), self.networks)
        except (MediaError, OSError) as error:
            for trial in trials:
                for system in self._systems_for(trial):
                    reason = _one_line(error)
                    self.rows.append(ResultRow(trial.pair, trial.protocol, trial.speaker, system, reason=reason))
                next(done, None)
            return
        openings: dict[str, np.ndarray] = {}  # by system, with the face's own audio
        for trial in sorted(trials, key=lambda trial: trial.protocol != MATCHED):
            for system in self._systems_for(trial):
                self.rows.append(self._evaluate_system(trial, system, truth, openings))
            next(done, None)

    def _evaluate_system(self, trial: Trial, system: str, truth: GroundTruth, own: dict[str, np.ndarray]) -> ResultRow:
        """The row of a trial; `own` collects the openings with the face's own audio by system."""
        row = ResultRow(trial.pair, trial.protocol, trial.speaker, system)
        if trial.protocol == STILLS:
            self._measure_stills(trial, row, truth)
        else:
            self._measure(trial, row, truth)
        opening = np.array(row.curves.get("opening", ()))
        if trial.protocol == MATCHED:
            own[system] = opening
        elif trial.protocol == SWAPPED and len(opening) and len(own.get(system, ())):
            both = min(len(opening), len(own[system]))
            row.figures["response"] = motion.response(own[system][:both], opening[:both])
        return row

    def _measure(self, trial: Trial, row: ResultRow, truth: GroundTruth) -> None:
        found = self._video(trial, row)
        if found is None:
            return
        try:
            made = measure(row, found, truth, self.networks)
            if self.mouths:
                row.figures |= dict(self.mouths.figures(trial, row.system, found))
        except (MediaError, OSError) as error:
            row.reason = _one_line(error)
            row.figures.clear()
            return
        if row.protocol != SILENT:
            for key, values in features(made.faces, self.networks).items():
                pair = values, truth.features[key][: len(values)]
                self._features.setdefault((row.protocol, row.system, key), []).append(pair)

    def _measure_stills(self, trial: Trial, row: ResultRow, truth: GroundTruth) -> None:
        """Compare the videos of two stills driven by the same audio."""
        openings = []
        for still in STILL_POSITIONS:
            found = self._video(trial, row, still)
            if found is None:
                return
            index = still_index(len(truth.source.track), still)
            try:
                openings.append(motion.opening(read_still_footage(found, truth.source, index).faces))
            except (MediaError, OSError) as error:
                row.reason = _one_line(error)
                return
        both = min(map(len, openings))
        row.curves["opening"] = openings[0].tolist()
        if (agreement := motion.agreement(openings[0][:both], openings[1][:both])) is not None:
            row.figures["other_frame"] = agreement

    def _video(self, trial: Trial, row: ResultRow, still: str = "") -> Path | None:
        """Generate or look up a row's video; without one, record the reason in the row."""
        if row.system in self.made:
            found = find_video(self.made[row.system], trial, still) or "no video provided"
        else:
            found = self.maker.make(trial, row.system, still)
        if isinstance(found, str):
            row.reason = found
            return None
        row.video = row.video or self._report_path(found)
        return found

    def _report_path(self, video: Path) -> str:
        """The path relative to the report's folder if the video is inside it."""
        return video.relative_to(self.maker.out).as_posix() if video.is_relative_to(self.maker.out) else str(video)

    def _system_metrics(self) -> Iterator[SystemMetric]:
        for (protocol, system, key), clips in self._features.items():
            made, real = [made for made, _ in clips], [real for _, real in clips]
            if key == MOUTH_FEATURES:
                for name, value in distribution_metrics(made, real):
                    yield SystemMetric(protocol, system, name, value)
            elif found := frechet_interval(made, real):
                yield SystemMetric(protocol, system, key, *found)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
