"""Contact sheets: a grid of pictures as one PNG, to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LABEL_HEIGHT_PX = 16
LINE_COLOUR = (255, 255, 255)


def save_sheet(
    file: Path,
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    labels: Sequence[str] = (),
    font: ImageFont.FreeTypeFont | None = None,
) -> None:
    """Saves rows of pictures as one PNG.

    Args:
        file: Replaced if there. Its folder is created.
        rows: Each a list of uint8 (H, W, 3). All pictures have the same size; rows may differ in length.
        labels: A text above each row, or nothing.
        font: Of the labels; Pillow's own, which has Latin characters only, if left out.
    """
    height, width = rows[0][0].shape[:2]
    step = height + (LABEL_HEIGHT_PX if labels else 0)
    sheet = Image.new("RGB", (width * max(map(len, rows)), step * len(rows)))
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        if labels:
            draw.text((2, index * step + 1), labels[index], fill=LINE_COLOUR, font=font)
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (column * width, (index + 1) * step - height))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def in_rows(pictures: Sequence[NDArray[np.uint8]], columns: int) -> list[Sequence[NDArray[np.uint8]]]:
    """Splits a list of pictures into rows of `columns`."""
    return [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
