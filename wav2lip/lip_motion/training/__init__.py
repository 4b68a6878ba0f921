"""What the lip-motion trainer is made of: losses, recipe, offsets, metrics."""
