"""Trains a sync expert on lip shapes and speech features (syncnet.shape_expert).

Lip motion training includes this stage. Use this command for an independent judge with another speech encoder:
`python -m wav2lip.lip_motion.training.expert_training CLIPS JUDGE --motion MOTION --offsets OFFSETS`, where MOTION is
the checkpoint to be judged and OFFSETS the offsets.json of its training run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from preprocessing.commands import Parser, run_command
from syncnet.shape_expert import ShapeExpert, ShapeExpertConfig, shape_matching_loss
from training.checkpoint import Checkpoint
from training.run import RunFolder, due
from wav2lip.lip_motion.checkpoint import CANONICAL, TrainedMotion
from wav2lip.lip_motion.data.clips import open_motion_clips
from wav2lip.lip_motion.data.corpus import Corpus
from wav2lip.lip_motion.data.training_set import WindowSampler, center_rows
from wav2lip.lip_motion.speech.speech_encoder import SAMPLE_RATE
from wav2lip.lip_motion.training.recipe import LipMotionRecipe

KIND = "shape-expert"
WEIGHT_DECAY = 0.05
FIRST_STEP = 1_000_000  # the expert samples windows from this step on, so that they differ from the network's
LOG_EVERY = 100


def train_expert(
    corpus: Corpus, recipe: LipMotionRecipe, encoder: str, seed: int, run: RunFolder | None = None
) -> ShapeExpert:
    """Trains an expert on the features of `encoder`, on the CPU; returns it frozen."""
    torch.manual_seed(seed)
    features = corpus.seen[0].clip.features[encoder].shape[1]
    expert = ShapeExpert(ShapeExpertConfig(features, corpus.space.components))
    expert.normalize(corpus.feature_rows(encoder), torch.from_numpy(corpus.space.deviations))
    optimizer = torch.optim.AdamW(expert.parameters(), recipe.lr, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    sampler = WindowSampler(corpus.seen, recipe.network, recipe.window, recipe.power, seed)
    for step in range(recipe.expert_steps):
        optimizer.param_groups[0]["lr"] = recipe.lr_at(step, recipe.expert_steps)
        batch = sampler.batch(FIRST_STEP + step, recipe.batch)
        audio = expert.embed_audio(center_rows(batch[encoder], recipe.network, recipe.window))
        shape, weight = expert.embed_shape(batch["coefficients"]), batch["known"] * batch["speech"]
        loss = shape_matching_loss(audio, shape, weight, expert.log_scale)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expert.parameters(), 1.0)
        optimizer.step()
        if run and due(step + 1, LOG_EVERY):
            run.log(0, expert_step=step + 1, matching=loss.item())
    return expert.eval().requires_grad_(False)


def save_expert(expert: ShapeExpert, encoder: str, steps: int, path: Path) -> None:
    """Writes a checkpoint that includes the name of the speech encoder."""
    config = asdict(expert.config) | {"encoder": encoder}
    Checkpoint(KIND, config, {"sample_rate": SAMPLE_RATE}, CANONICAL, expert.state_dict(), steps).save(path)


def open_expert(path: Path) -> tuple[ShapeExpert, str]:
    """Loads a frozen expert and the name of its speech encoder.

    Raises:
        UsageError: the file is missing, damaged or another kind of checkpoint.
    """
    checkpoint = Checkpoint.load(path, KIND)
    config = dict(checkpoint.config)
    encoder = config.pop("encoder")
    expert = ShapeExpert(ShapeExpertConfig(**config))
    expert.load_state_dict(checkpoint.weights)
    return expert.eval().requires_grad_(False), encoder


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser("wav2lip.lip_motion.training.expert_training", __doc__)
    parser.add_argument("clips", type=Path, help="folder of motion clips")
    parser.add_argument("out", type=Path, help="checkpoint to write")
    parser.add_argument("--motion", type=Path, required=True, help="checkpoint of the lip motion model to judge")
    parser.add_argument("--encoder", choices=("whisper", "mel"), default="mel")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--offsets", type=Path, help="offsets.json of a training run")
    given = parser.parse_args(argv)

    def job() -> None:
        recipe, space = LipMotionRecipe(expert_steps=given.steps), TrainedMotion.load(given.motion).space
        corpus = Corpus.of(open_motion_clips(given.clips, given.encoder), space.components, recipe.seed, space)
        corpus = corpus.shifted(json.loads(given.offsets.read_text()) if given.offsets else {})
        save_expert(train_expert(corpus, recipe, given.encoder, given.seed), given.encoder, given.steps, given.out)

    return run_command("wav2lip.lip_motion.training.expert_training", job)


if __name__ == "__main__":
    sys.exit(main())
