"""A picture with a histogram of every score."""

from collections.abc import Mapping, Sequence
from io import BytesIO

from PIL import Image, ImageDraw

from lynx_batch.planning.distributions import Distribution

NUM_COLUMNS = 3
NUM_BINS = 30
PANEL_PX = (400, 200)
MARGIN_PX = 24
TITLE_PX, TEXT_PX = 15, 13
BAR, AXIS, TEXT, LIMIT = "#4c78a8", "#999999", "#222222", "#c8102e"


def draw_scores(distributions: Sequence[Distribution], limits: Mapping[str, float]) -> bytes:
    """A PNG file with one panel for each score. A line shows the limit of those that have one in `limits`."""
    width, height = PANEL_PX
    num_rows = -(-len(distributions) // NUM_COLUMNS)
    picture = Image.new("RGB", (width * NUM_COLUMNS, height * num_rows), "white")
    pen = ImageDraw.Draw(picture)
    for number, distribution in enumerate(distributions):
        row, column = divmod(number, NUM_COLUMNS)
        _draw_panel(pen, (column * width, row * height), distribution, limits.get(distribution.score))
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _draw_panel(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], distribution: Distribution, limit: float | None
) -> None:
    left, right = corner[0] + MARGIN_PX, corner[0] + PANEL_PX[0] - MARGIN_PX
    top, bottom = corner[1] + 2 * MARGIN_PX, corner[1] + PANEL_PX[1] - MARGIN_PX - TEXT_PX
    counts = distribution.histogram(NUM_BINS)
    bin_px = (right - left) / NUM_BINS
    pen.text((left, corner[1] + MARGIN_PX // 2), distribution.score, fill=TEXT, font_size=TITLE_PX)
    pen.text((right, corner[1] + MARGIN_PX // 2), f"{max(counts)} at most", fill=AXIS, font_size=TEXT_PX, anchor="ra")
    for number, count in enumerate(counts):
        if count:
            start, above = left + number * bin_px, bottom - (bottom - top) * count / max(counts)
            pen.rectangle((start, above, start + bin_px - 2, bottom), fill=BAR)
    pen.line((left, bottom, right, bottom), fill=AXIS)
    pen.text((left, bottom + 4), f"{distribution.low:.4g}", fill=TEXT, font_size=TEXT_PX)
    pen.text((right, bottom + 4), f"{distribution.high:.4g}", fill=TEXT, font_size=TEXT_PX, anchor="ra")
    if limit is not None:
        at = left + (right - left) * min(max(distribution.position(limit), 0), 1)
        pen.line((at, top, at, bottom), fill=LIMIT, width=2)
        pen.text(((left + right) / 2, bottom + 4), f"limit {limit:g}", fill=LIMIT, font_size=TEXT_PX, anchor="ma")
