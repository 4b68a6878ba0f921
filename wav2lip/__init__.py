"""The generator and its critics."""
