"""Make a matplotlib figure a part of a page: SVG in the page's colours and font, whose text is text, that loads and runs nothing.

Colours are drawn as place-holders and become CSS variables, so that one picture serves light, dark and print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from mfubench.report.settings import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, LINE, SHADE, BAD, CARD = (f"#00000{number}" for number in range(1, 7))
THEME = {
    INK: "currentColor",
    QUIET: "var(--quiet)",
    LINE: "var(--line)",
    SHADE: "var(--shade)",
    BAD: "var(--bad)",
    CARD: "var(--card)",
} | {f"#00001{number}": f"var(--series-{number})" for number in range(1, 7)}
STYLE = Path(__file__).parent / "page.mplstyle"
SVG = "http://www.w3.org/2000/svg"


@contextmanager
def style(part: str) -> Iterator[None]:
    """Set the page's look for all figures made and written within; `part` is unique on the page."""
    import matplotlib

    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    with matplotlib.rc_context({"svg.hashsalt": part}, STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the page's fonts may well have it
        yield


def svg(figure: Figure, name: str, description: str) -> Markup:
    """Write a figure as an <svg> element, within `style()`.

    Args:
        figure: the gids of its artists become classes.
        name: unique in its part of the page; the ids of clip paths and markers are made from both.
        description: read out in place of the picture.
    """
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": f"{matplotlib.rcParams['svg.hashsalt']} {name}"}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(file.getvalue())
    root.remove(root[0])  # rules for all lines of whatever document they are in
    for element in root.iter():
        element.text, element.tail = (element.text or "").strip(), None
        if element.tag == f"{{{SVG}}}g" and not (own := element.attrib.pop("id", "1"))[-1].isdigit():
            element.set("class", own)  # one of ours; matplotlib's own are numbered
        for where in {"style", "fill"} & element.attrib.keys():  # the latter is a hatched bar's ground
            element.set(where, re.sub("#0000[01][1-6]", lambda found: THEME[found[0]], element.attrib[where]))
    width, height = (root.attrib.pop(side).removesuffix("pt") for side in ("width", "height"))
    root.attrib |= {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": one_line(description)}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # text was escaped by both writers
