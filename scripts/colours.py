"""Names of the colours that a picture has most of, by fixed borders of hue, saturation and brightness."""

from __future__ import annotations

from collections import Counter

from PIL import Image

# Upper borders, of 256 around the circle.
HUES = ((11, "red"), (27, "orange"), (49, "yellow"), (117, "green"), (184, "blue"), (220, "purple"), (243, "pink"))
# Below these a colour is dark, pale, or brown instead of what its hue says.
DARK, PALE, BROWN = 70, 50, 190
BROWN_HUES = range(9, 35)
LIGHT = 235
# Colours that are named at most, the share of pixels that one must have, and from where on a pixel is no hole.
MOST, LEAST_SHARE, OPAQUE = 2, 0.1, 128
SIDE = 32


def name_colour(hue: int, saturation: int, value: int) -> str:
    """Of one pixel, all of 0 to 255."""
    if value < DARK:
        return "black"
    if saturation < PALE:
        return "white" if value > LIGHT else "grey"
    if hue in BROWN_HUES and value < BROWN:
        return "brown"
    return next((name for border, name in HUES if hue < border), "red")


def name_colours(picture: Image.Image) -> str:
    """The one or two colours with the most pixels, most first; black, as outlines are, only where nothing else is."""
    small = picture.convert("RGBA").resize((SIDE, SIDE))
    pixels, holes = small.convert("RGB").convert("HSV").tobytes(), small.getchannel("A").tobytes()
    seen = [place for place, opacity in enumerate(holes) if opacity >= OPAQUE]
    counts = Counter(name_colour(*pixels[3 * place : 3 * place + 3]) for place in seen)
    del counts["black"]
    names = [name for name, count in counts.most_common(MOST) if count >= LEAST_SHARE * len(seen)]
    return " and ".join(names) or "black"
