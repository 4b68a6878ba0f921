"""Critics and adversarial objectives for training any generator."""
