"""Small networks for the scorers: real classes of transformers with random weights, and real ONNX files."""

from pathlib import Path

import onnx
import torch
from onnx import parser
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

SIDE_PX = 32
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
NETWORK = (
    '<ir_version: 8, opset_import: ["" : 17]> network (float[{batch}, {side}, 224, 3] x) => (float[batch, {size}] y)'
)
BODY = " {{ m = ReduceMean <axes = [1, 2], keepdims = 0> (x) s = Slice (m, from, to, axis) {last} }}"


def save_vit(folder: Path, labels: list[str]) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(**TOWER, image_size=SIDE_PX, patch_size=8, id2label=dict(enumerate(labels)))
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX}).save_pretrained(folder)
    return folder


def save_clip_model(folder: Path) -> Path:
    """A CLIP whose vocabulary is the letters, so that a usual prompt exceeds its 20 places."""
    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 20}
    text |= {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    vision = {**TOWER, "image_size": SIDE_PX, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIDE_PX}, "crop_size": {"height": SIDE_PX, "width": SIDE_PX}}
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return folder


def write_network(
    file: Path, *, batch: str = "N", side: int = 224, size: int = 2, last: str = "y = Softmax (s)"
) -> Path:
    """A network from pictures to `size` numbers, with an ONNX input of this shape."""
    constants = f"<int64[1] from = {{0}}, int64[1] to = {{{size}}}, int64[1] axis = {{1}}>"
    text = NETWORK.format(batch=batch, side=side, size=size) + constants + BODY.format(last=last)
    onnx.save(parser.parse_model(text), file)
    return file
