"""The web service: a REST API, a queue of jobs that survives a restart, and one page that uses nothing else."""
