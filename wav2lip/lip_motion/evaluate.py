"""Evaluates a lip motion model on unseen people: `python -m wav2lip.lip_motion.evaluate CLIPS`.

CLIPS is a folder of motion clips (python -m wav2lip.lip_motion.prepare). The evaluation uses people of the split "val"
who are not in "train". Audio-video offsets of the recordings are corrected first: as estimated by the model itself, or
as given by --offsets. Prints medians over clips as one line of JSON; --each also prints a line per clip.

With --judge, a sync expert not used in training (python -m wav2lip.lip_motion.training.expert_training), two more
metrics give the fraction of clips in which it finds the predicted and the real lips within one frame of the audio.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from preprocessing.commands import Parser, run_command
from preprocessing.errors import UsageError
from syncnet.shape_expert import ShapeExpert
from wav2lip.lip_motion.checkpoint import TrainedMotion
from wav2lip.lip_motion.data.clips import MotionClip, open_motion_clips
from wav2lip.lip_motion.data.training_set import MotionExample, example, speaker_gains
from wav2lip.lip_motion.motion import WEIGHTS
from wav2lip.lip_motion.training.expert_training import open_expert
from wav2lip.lip_motion.training.metrics import clip_metrics, judge_offset, predict, summarize
from wav2lip.lip_motion.training.offsets import find_offsets
from wav2lip.lip_motion.training.rest_errors import rest_errors

TOLERANCE = 1  # frames


def held_out(
    clips: Sequence[MotionClip], motion: TrainedMotion, offsets: Mapping[str, float] | None
) -> list[MotionExample]:
    """Examples of people who are not in "train", with offsets corrected.

    Raises:
        UsageError: there are none.
    """
    known = {clip.speaker for clip in clips if clip.split == "train"}
    chosen = [clip for clip in clips if clip.split == "val" and clip.speaker not in known]
    if not chosen:
        raise UsageError('no motion clip of the split "val" has a speaker who is not in "train"')
    gains = speaker_gains(chosen)
    items = [example(clip, motion.space, gains[clip.speaker]) for clip in chosen]
    if offsets is None:
        predictions = [predict(motion.network, motion.space, item, motion.encoder, closing=False) for item in items]
        offsets = find_offsets(predictions, items, motion.space)
    lags = [offsets.get(item.clip.name, 0.0) for item in items]
    return [example(item.clip, motion.space, item.gain, lag) for item, lag in zip(items, lags, strict=True)]


def clip_scores(item: MotionExample, motion: TrainedMotion, judge: tuple[ShapeExpert, str] | None) -> dict[str, float]:
    """Metrics of one clip by name; `judge`: a sync expert and the name of its speech encoder."""
    predicted = predict(motion.network, motion.space, item, motion.encoder)
    found = clip_metrics(motion.space, item, predicted)
    counts = item.known & item.speech
    if judge is not None and counts.any():
        expert, encoder = judge
        rows = item.clip.features[encoder]
        for name, shapes in {"judged": predicted, "judged_real": item.coefficients}.items():
            found[name] = float(judge_offset(expert, rows, shapes.astype(np.float32), counts))
    return found


def evaluate(
    folder: Path, checkpoint: Path, offsets: Path | None = None, judge: Path | None = None, each: bool = False
) -> dict[str, float]:  # fmt: skip
    """Medians over clips, by name; `each` also prints the metrics of each clip.

    Raises:
        UsageError: a file is missing or damaged, or there are no held-out people.
    """
    motion, expert = TrainedMotion.load(checkpoint), open_expert(judge) if judge else None
    if expert and expert[0].config.components != motion.space.components:
        ours, theirs = motion.space.components, expert[0].config.components
        raise UsageError(f"the model has {ours} components, the judge {theirs}: train a judge for this model")
    clips = open_motion_clips(folder, *{motion.encoder, expert[1] if expert else motion.encoder})
    items = held_out(clips, motion, json.loads(offsets.read_text()) if offsets else None)
    found = [clip_scores(item, motion, expert) for item in items]
    for item, values in zip(items, found, strict=True):
        if each:
            print(json.dumps({"clip": item.clip.name} | {name: round(value, 3) for name, value in values.items()}))
    result = summarize(found)
    for name in ("judged", "judged_real"):
        if name in result:
            result[name] = float(np.mean([abs(values[name]) <= TOLERANCE for values in found if name in values]))
    if motion.rest is not None:
        result["shape_to_rest"], result["mapped_to_rest"] = rest_errors(motion.rest, items)
    return {"clips": len(items), "people": len({item.clip.speaker for item in items})} | result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser("wav2lip.lip_motion.evaluate", __doc__)
    parser.add_argument("clips", type=Path, help="folder of motion clips")
    parser.add_argument(
        "--checkpoint", type=Path, default=WEIGHTS, help="checkpoint of the model (default: the bundled one)"
    )
    parser.add_argument("--offsets", type=Path, help="offsets.json of a training run")
    parser.add_argument("--judge", type=Path, help="checkpoint of a sync expert")
    parser.add_argument("--each", action="store_true", help="also print a line per clip")
    given = parser.parse_args(argv)

    def job() -> None:
        found = evaluate(given.clips, given.checkpoint, given.offsets, given.judge, given.each)
        print(json.dumps({name: round(value, 3) for name, value in found.items()}))

    return run_command("wav2lip.lip_motion.evaluate", job)


if __name__ == "__main__":
    sys.exit(main())
