"""Clips of real photos that move, as a renderer would deliver them; no model renders them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lynx_batch.delivery.video import encode_mp4
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.faces.upright import find_faces
from lynx_model.spec import RenderParams, Subject

WIDTH, HEIGHT, NUM_FRAMES, FPS = 416, 240, 33, 16
PARAMS = RenderParams(prompt="A person waves.", width=WIDTH, height=HEIGHT, num_frames=NUM_FRAMES, fps=FPS)
MODELS_ENCODER = "arcface-ir-se50"


def load_photo(file: Path) -> np.ndarray:
    return read_photo(file.read_bytes())


def film(
    reader: FaceReader, photo: np.ndarray, *, width: int = WIDTH, height: int = HEIGHT, num_frames: int = NUM_FRAMES
) -> np.ndarray:
    """A camera that moves over a photo and towards its face, which grows from 40 to 56 % of the picture's height."""
    (face,) = find_faces(reader.detector, photo)
    image, face_px = Image.fromarray(photo), face.box[3] - face.box[1]
    frames = []
    for place in np.linspace(0, 1, num_frames):
        half_high = face_px / (0.4 * (1 + 0.4 * place)) / 2
        half_wide = half_high * width / height
        x, y = face.centre[0] + (place - 0.5) * half_wide * 0.6, face.centre[1]
        box = (x - half_wide, y - half_high, x + half_wide, y + half_high)
        frames.append(np.array(image.transform((width, height), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)))
    return np.stack(frames)


def encode(frames: np.ndarray, fps: int = FPS) -> bytes:
    return encode_mp4(frames, fps=fps, crf=18)


def as_conditioned(subject: Subject) -> Subject:
    """The subject as a model with another encoder knows it: its embedding says nothing here."""
    return replace(subject, encoder=MODELS_ENCODER, face_embedding=np.eye(512, dtype=np.float32)[0])
