"""The mesh renderer: renders lip shapes by warping the person's own pixels."""
