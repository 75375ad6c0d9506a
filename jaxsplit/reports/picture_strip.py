"""A strip of images in an HTML report: input, the unsplit network's map, and maps at some rates."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator

from PIL import Image

from jaxsplit.evaluation.drawn import Drawn, DrawnImage

_WIDEST = 480  # pixels of a picture in the page

#: For the page's style sheet.
STYLE = """.strip { display: grid; gap: .5rem; min-width: 48rem; margin-bottom: .5rem; }
figure { margin: 0; } figure img { width: 100%; display: block; image-rendering: pixelated; }
figcaption { font-size: .875rem; color: var(--grey); font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .875rem; }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .3em;
  border: 1px solid var(--faint); vertical-align: -.1em; }
"""


def strip(drawn: Drawn) -> str:
    """Builds the section of a page.

    Args:
      drawn: pictures of the evaluated images.

    Returns:
      HTML that loads nothing; "" without pictures.

    >>> strip(Drawn())
    ''
    """
    if not drawn.images:
        return ""
    rows = "".join(map(_row, drawn.images))
    legend = "".join(
        f'<span><i style="background:rgb{tuple(colour)}"></i>{html.escape(name)}</span>'
        for name, colour in drawn.legend.items()
    )
    return (
        f'<h2>Images</h2><div class="wide">{rows}</div><div class="legend">{legend}</div>'
        "<p>From left to right: the image, what the unsplit network predicts, and what is "
        "predicted from the frames of some rates.</p>"
    )


def _row(image: DrawnImage) -> str:
    cells = [(image.image, "image", "JPEG"), (image.unsplit, "unsplit network", "PNG")]
    cells += [(one.picture, f"{one.rate_id}: {one.bytes:,} bytes", "PNG") for one in image.rates]
    figures = "".join(_figures(cells))
    return (
        f'<div class="strip" style="grid-template-columns:repeat({len(cells)},1fr)">{figures}</div>'
    )


def _figures(cells: list[tuple[Image.Image, str, str]]) -> Iterator[str]:
    for picture, caption, kind in cells:
        shrunk = picture
        if picture.width > _WIDEST:
            size = _WIDEST, max(1, round(picture.height * _WIDEST / picture.width))
            nearest = Image.Resampling.NEAREST  # of indices
            filtered = Image.Resampling.BILINEAR
            shrunk = picture.resize(size, nearest if picture.mode == "P" else filtered)
        encoded = io.BytesIO()
        shrunk.save(encoded, kind, optimize=True)
        data = base64.b64encode(encoded.getvalue()).decode()
        text = html.escape(caption)
        source = f"data:image/{kind.lower()};base64,{data}"
        yield f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
