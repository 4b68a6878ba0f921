"""Training infrastructure shared by all networks."""
