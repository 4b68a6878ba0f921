"""Critics and adversarial objectives, for any generator."""
