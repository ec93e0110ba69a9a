"""A photo and its aligned face as small JPEG files, to show to a person."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lynx_model.faces.align import align_face_for_reference
from lynx_model.faces.detection import DetectedFace, usable

PHOTO_PX = 256
"""The longer side of a small photo."""

JPEG_QUALITY = 80
LABEL_PX = 20
CHOSEN, OTHER = "#3fe07a", "#ffd23f"
"""Colours of the frames around the face that is used, and around the others that could be."""


def encode_photo(image_rgb: NDArray[np.uint8], faces: Sequence[DetectedFace], chosen: DetectedFace | None) -> bytes:
    """The photo, uint8 (H, W, 3), shrunk to `PHOTO_PX`, with a frame around each face that can be used; a JPEG file.

    If there are several, each frame has its `face_index`.
    """
    picture = Image.fromarray(image_rgb)
    picture.thumbnail((PHOTO_PX, PHOTO_PX))
    scale = picture.width / image_rgb.shape[1]
    pen, candidates = ImageDraw.Draw(picture), usable(list(faces))
    for index, face in enumerate(candidates):
        colour = CHOSEN if face is chosen else OTHER
        left, top, right, bottom = (face.box * scale).tolist()
        pen.rectangle((left, top, right, bottom), outline=colour, width=2)
        if len(candidates) > 1:
            above = top - LABEL_PX if top > LABEL_PX else bottom
            pen.text((left, above), str(index), fill=colour, font_size=LABEL_PX, stroke_width=2, stroke_fill="black")
    return _encode(picture)


def encode_crop(image_rgb: NDArray[np.uint8], face: DetectedFace) -> bytes:
    """The aligned crop of 256 px that the Ref-adapter reads, as a JPEG file."""
    return _encode(Image.fromarray(align_face_for_reference(image_rgb, face.landmarks)))


def _encode(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
