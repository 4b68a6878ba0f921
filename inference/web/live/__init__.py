"""Live sessions of the service: people who speak what a client sends."""
