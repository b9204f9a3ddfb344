"""Films made on the spot, whose frames can be told apart."""

from __future__ import annotations

from fractions import Fraction
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
        # The encoder would make a key frame of each that looks unlike the one before.
        stream.codec_context.options = {"sc_threshold": "1000000000"}
        for image in frames(size):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return buffer.getvalue()


def make_changing_film(*sizes: tuple[int, int]) -> bytes:
    """A film each of whose frames has a size of its own, while its header tells that of the first."""
    buffer, rate = BytesIO(), Fraction(1, 5)
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=5, width=sizes[0][0], height=sizes[0][1], pix_fmt="yuvj420p")
        for number, size in enumerate(sizes):
            coder = av.CodecContext.create("mjpeg", "w")
            coder.width, coder.height, coder.pix_fmt, coder.time_base = *size, "yuvj420p", rate
            for packet in [*coder.encode(av.VideoFrame.from_image(Image.new("RGB", size))), *coder.encode(None)]:
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, rate
                container.mux(packet)
    return buffer.getvalue()
