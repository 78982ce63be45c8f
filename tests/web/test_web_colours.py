"""Every text has the contrast that WCAG 2.2 asks for at level AA, by day and by night."""

import re

import pytest

from hedgerow.web.serving import STATIC

COLOUR = re.compile(r"--([\w-]+): #([0-9a-f]{6});")
TEXTS = ("ink", "soft", "leaf", "hip", "ochre", "bramble")
HUES = tuple(f"hue{number}" for number in range(1, 6))
"""Strips of labels, with their names in the colour of the paper; hue0 is the leaf."""


def luminance(colour: str) -> float:
    """Relative luminance of `rrggbb`, by WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def colours(scheme: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("base.css", "console.css"):
        text = (STATIC / name).read_text("utf-8")
        light, dark = text.split("@media (prefers-color-scheme: dark)", 1)
        found |= dict(COLOUR.findall(light if scheme == "light" else dark))
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_colour_has_the_contrast_that_aa_asks_for(scheme: str) -> None:
    found = colours(scheme)
    pairs = [(text, ground) for text in TEXTS for ground in ("paper", "sheet")]
    pairs += [("ink", "leaf-pale"), ("hip", "leaf-pale")]
    pairs += [("paper", hue) for hue in (*HUES, "leaf", "hip", "ink")]
    for text, ground in pairs:
        dim, bright = sorted([luminance(found[text]), luminance(found[ground])])
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, ground)
