"""What is generated and compared: pairs, trials, baselines, hard inputs."""
