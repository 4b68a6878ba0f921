"""What the expert's trainer is made of: losses, recipe, validation."""
