"""Evaluation protocols: pairs, trials, baselines and hard inputs."""
