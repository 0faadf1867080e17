"""A matplotlib figure → SVG that is a part of a page: its colours are the page's, its text is text, nothing in it loads or runs.

Colours are drawn as place-holders that CSS fills in, so that one picture reads well in light and in dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from mfubench.report.settings import one_line

INK, QUIET, LINE, SHADE, BAD = "#000001", "#000002", "#000003", "#000004", "#000005"
SERIES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016")
THEME = {
    INK: "currentColor",
    QUIET: "var(--quiet)",
    LINE: "var(--line)",
    SHADE: "var(--shade)",
    BAD: "var(--bad)",
} | {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)}
POINTS_PER_INCH = 72  # matplotlib's SVG has one unit a point
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mfubench",
    "text.parse_math": False,  # a $ in somebody's text is a $
    "text.usetex": False,
    "text.color": INK,
    "font.size": 12,
}
SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}"
REFERENCE = re.compile(r"#([^)]+)")
CLASS = "class:"  # such a gid becomes the class of its element


@contextmanager
def style() -> Iterator[None]:
    """The settings under which figures are made and written."""
    import matplotlib

    ElementTree.register_namespace("", SVG)
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the page's fonts may well have it
        yield


class Picture:
    """A matplotlib figure to draw on in pixels from its upper left corner; what is drawn later of a kind lies above.

    `kind` is the class that the drawn has on the page. Without axes, whose making takes longer than all drawing.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D

        self.figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), dpi=POINTS_PER_INCH)
        self.figure.patch.set_visible(False)
        self.pixels = Affine2D().scale(1, -1).translate(0, height)

    def text(
        self, x: float, y: float, words: str, size: float = 12, colour: str = INK, align: str = "left", kind: str = ""
    ) -> None:
        """Words on one line; `y` is their baseline's, `x` that of the side that they are aligned by."""
        text = self.figure.text(x, y, words, fontsize=size, color=colour, ha=align, transform=self.pixels)
        text.set_gid(CLASS + kind)

    def box(self, x: float, y: float, width: float, height: float, colour: str, kind: str = "") -> None:
        """A filled box from its upper left corner."""
        from matplotlib.patches import Rectangle

        box = Rectangle((x, y), width, height, facecolor=colour, transform=self.pixels, gid=CLASS + kind)
        self.figure.add_artist(box)

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        colour: str,
        width: float = 1,
        kind: str = "",
        inside: tuple[float, float, float, float] | None = None,
        **looks: Any,
    ) -> None:
        """A line; nothing of it is seen but `inside` a box: left, top, width, height. `looks`: matplotlib's of a Line2D."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Rectangle

        line = Line2D(xs, ys, color=colour, linewidth=width, transform=self.pixels, gid=CLASS + kind, **looks)
        self.figure.add_artist(line)
        if inside is not None:
            line.set_clip_path(Rectangle(inside[:2], *inside[2:], transform=self.pixels))


def shortened(text: str, length: int) -> str:
    """The text on one line of at most that many characters, none of which XML can't write."""
    line = one_line(text)
    return line if len(line) <= length else line[: length - 1] + "…"


def svg(picture: Picture, name: str, description: str) -> Markup:
    """The picture as an <svg> element; `name`: unique on the page, and an id; `description`: for those who don't see it."""
    file = io.BytesIO()
    picture.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(file.getvalue())
    width, height = (root.attrib.pop(side).removesuffix("pt") for side in ("width", "height"))
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    for element in root.iter():
        _adopt(element, name)
    root.attrib |= {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": one_line(description)}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # text was escaped by both writers


def _adopt(element: ElementTree.Element, name: str) -> None:
    """Make an element one of the page's: ids of its own, the page's colours and fonts, no more digits than are seen."""
    attributes = element.attrib
    own = attributes.pop("id", "")
    if own.startswith(CLASS):
        attributes |= {"class": own.removeprefix(CLASS)} if own != CLASS else {}
    elif own and element.tag in (f"{{{SVG}}}path", f"{{{SVG}}}clipPath"):
        attributes["id"] = f"{name}-{own}"
    if href := attributes.pop(f"{XLINK}href", None):
        attributes["href"] = REFERENCE.sub(rf"#{name}-\1", href)
    if clip := attributes.get("clip-path"):
        attributes["clip-path"] = REFERENCE.sub(rf"#{name}-\1", clip)
    if looks := attributes.get("style"):
        looks = re.sub(r"font-family: [^;]*;? ?", "", looks)
        attributes["style"] = re.sub("#0000[0-9a-f]{2}", lambda found: THEME[found[0]], looks)
    if path := attributes.get("d"):
        attributes["d"] = " ".join(re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.1f}", path).split())
    for kind in ("text", "tail"):
        if not (getattr(element, kind) or "").strip():
            setattr(element, kind, None)
