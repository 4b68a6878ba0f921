"""The files of a job: checks before it starts, the frames and speech read, the sound and preview written."""
