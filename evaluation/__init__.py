"""Videos in, tables out: how well generated mouths fit the sound, move, look, and how often there is a video at all."""
