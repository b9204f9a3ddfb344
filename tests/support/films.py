"""Films made on the spot, whose frames can be told apart."""

from __future__ import annotations

from io import BytesIO

import av
from PIL import Image

NUM_FRAMES = 10
# Frame k is this dark.
STEP = 25


def frames(size: tuple[int, int] = (48, 32)) -> list[Image.Image]:
    return [Image.new("RGB", size, (STEP * k, STEP * k, STEP * k)) for k in range(NUM_FRAMES)]


def make_film(kind: str = "mp4", size: tuple[int, int] = (48, 32)) -> bytes:
    """A film of ten greys, each frame lighter than the one before, with a key frame at every fourth."""
    buffer = BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("mpeg4", rate=5, width=size[0], height=size[1], pix_fmt="yuv420p")
        stream.gop_size = 4
        for image in frames(size):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return buffer.getvalue()
