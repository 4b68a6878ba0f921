"""Videos written for the tests of the writer."""

from fractions import Fraction

from preprocessing.media.video_writer import VideoWriter
from tests.preprocessing.media.footage import photo

FPS = Fraction(25)
CLICKS = (0.5, 1.0, 1.5)  # seconds


def write(path, count=25, size=(64, 48), fps=FPS, **options):
    picture = photo(*size)
    with VideoWriter(path, size[0], size[1], fps, preset="ultrafast", **options) as writer:
        for _ in range(count):
            writer.write(picture)
    return path
