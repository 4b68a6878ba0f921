"""The renderer: a lip shape becomes a picture, by moving the person's own pixels."""
