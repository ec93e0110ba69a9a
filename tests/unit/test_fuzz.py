"""Whatever comes in ends in success or in an error of ours, and soon: damaged files, hostile texts, headers that lie.

Each input follows from its seed alone. A failure names kind and seed; `pytest tests/unit/test_fuzz.py --fuzz N` tries the seeds below N
of each kind.
"""

import json
import os
import string
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook
from safetensors import safe_open

from lynx_batch.config import DefaultsConfig, InputsConfig, load_run_config, parse_override
from lynx_batch.errors import ConfigError, LynxError
from lynx_batch.intake.build import build_from_table, place_photos
from lynx_batch.intake.check import check_rows
from lynx_batch.intake.expression import filter_rows
from lynx_batch.intake.grid import combine, make_axes
from lynx_batch.intake.manifest import read_manifest, write_manifest
from lynx_batch.intake.people import ALL, ColumnUse
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.intake.tables import read_source
from lynx_batch.intake.templates import fill, parse_template
from lynx_batch.ledger.export_claims import claim_names
from lynx_batch.ledger.export_names import columns_of
from lynx_batch.ledger.metadata import FILTER_COLUMNS
from lynx_batch.photo_places import ANYWHERE, explain_entry, explain_photo
from lynx_batch.preparation.model import locate_model
from lynx_batch.redaction import redact, scrub
from lynx_batch.storage import resolve
from lynx_model.canonical import ModelTraits
from lynx_model.checkpoints.adapter_spec import check_fit, describe_adapters
from lynx_model.checkpoints.base import check_base
from lynx_model.checkpoints.loras import describe_loras
from lynx_model.checkpoints.safetensors_header import LENGTH_BYTES, read_header
from lynx_model.scoring.clip import read_clip
from lynx_model.scoring.motion import MotionScorer
from lynx_model.scoring.safety import NsfwScorer
from lynx_model.scoring.technical import TechnicalScorer
from lynx_model.spec import ModelSource
from tests.builders import make_subject
from tests.clips import PARAMS, encode
from tests.models import BASE, MODEL, ROOT
from tests.scorers import write_network

LONGEST_S = 2.0
"""Of the processor, for one input."""

Try = Callable[[Random, Path], object]
"""Makes an input and reads it, with a folder of its own that the last one may have used."""

SPECIAL_NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1e308, float("inf"), float("nan"), 0.5)
SPECIAL_TEXTS = ("", "\0", "\ud800", "\x1b[31m", "💥", "x" * 5000, "../..", "~nobody/", "{a:{b}}", "file://x")


def damaged(random: Random, data: bytes) -> bytes:
    """`data` with bits flipped, cut short, or with a piece of it lost, doubled, moved or replaced."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at, to = sorted(random.randrange(len(found) + 1) for _ in range(2))
        match random.randrange(8):
            case 0 | 1 | 2 if found:
                found[random.randrange(len(found))] ^= 1 << random.randrange(8)
            case 3:
                del found[to:]
            case 4:
                del found[at : min(to, at + 40)]
            case 5:
                found[at:at] = found[at : min(to, at + 40)] * random.choice((1, 2, 50))
            case 6:
                found[at : at + 4] = random.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x80\x80\x80\x80", b"\xff" * 4))
            case _:
                source = random.randrange(len(found) + 1)
                found[at : at + 16] = found[source : source + 16]
    return bytes(found)


def distorted(random: Random, text: str, words: Sequence[str]) -> str:
    """`text` with pieces lost, doubled, moved, or `words` put in, now and then very often."""
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        at, to = sorted(random.randrange(len(text) + 1) for _ in range(2))
        word = random.choice((*words, *SPECIAL_TEXTS, random.choice(string.printable)))
        match random.randrange(6):
            case 0:
                text = text[:at] + text[to:]
            case 1:
                text = text[:to] + text[at:]
            case 2:
                text = text[:at] + (word * random.choice((2, 30, 1000)))[:10_000] + text[at:]
            case 3:
                text = text[:at] + word + text[min(to, at + 10) :]
            case _:
                text = text[:at] + word + text[at:]
    return text


def json_word(random: Random) -> object:
    """A value of JSON that nobody expects; deep ones are made of text, as Python cannot write them."""
    leaf = random.choice((*SPECIAL_NUMBERS, *SPECIAL_TEXTS, None, True, [], {}))
    match random.randrange(4):
        case 0:
            return [leaf] * random.choice((1, 2, 65))
        case 1:
            return {random.choice(SPECIAL_TEXTS): leaf}
    return leaf


def distorted_json(random: Random, value: object) -> object:
    """`value` with something in it replaced, lost, or added."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        name = random.choice([*value])
        match random.randrange(6):
            case 0:
                return {key: inner for key, inner in value.items() if key != name}
            case 1:
                return value | {random.choice((name + "x", *SPECIAL_TEXTS)): value[name]}
        return value | {name: distorted_json(random, value[name])}
    if isinstance(value, list) and value and random.random() < 0.9:
        at = random.randrange(len(value))
        return [*value[:at], distorted_json(random, value[at]), *value[at + random.randrange(2) :]]
    if isinstance(value, int) and random.random() < 0.7:
        return value + random.choice((-8, -1, 1, 8, 2**40))
    return json_word(random)


def damaged_json(random: Random, value: object) -> bytes:
    """JSON of `value`: another value, other bytes, or a depth that no parser bears."""
    for _ in range(random.choice((1, 1, 2, 4))):
        value = distorted_json(random, value)
    text = json.dumps(value).encode()
    match random.randrange(8):
        case 0:
            return damaged(random, text)
        case 1:
            deep = random.choice(("[", '{"a":')) * random.choice((100, 1000, 100_000))
            return text.replace(b":", f":{deep}".encode(), 1)
    return text


# ---- manifests


def _write_parquet(table: pa.Table, **options: object) -> bytes:
    file = BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def _sample_manifests() -> list[bytes]:
    rows = [
        {
            "subject_uri": f"photos/{row % 3}.jpg",
            "prompt": "A person waves. " * 3,
            "clip_name": f"clip-{row}",
            "seed": row,
            "width": 832,
            "guidance_scale": 5.0,
            "consent_expires_at": datetime(2030, 1, 1, tzinfo=UTC),
            "tags": [("campaign", "x")],
        }
        for row in range(20)
    ]
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    few = table.select([*rows[0]])
    shapes: tuple[dict[str, object], ...] = (
        {"compression": "none"},
        {"compression": "zstd", "data_page_version": "2.0", "use_dictionary": False},
        {"compression": "none", "use_byte_stream_split": ["guidance_scale"], "use_dictionary": False},
    )
    foreign = sorted(ROOT.glob("tests/data/*.parquet"))
    return [
        _write_parquet(table),
        *(_write_parquet(few, **shape) for shape in shapes),
        *(file.read_bytes() for file in foreign),
    ]


MANIFESTS = _sample_manifests()


def try_manifest(random: Random, folder: Path) -> object:
    file = folder / "m.parquet"
    file.write_bytes(damaged(random, random.choice(MANIFESTS)))
    return check_rows(read_manifest(str(file)), DefaultsConfig(), InputsConfig(), str(folder))


# ---- run files and options

RUN_FILES = [file.read_text() for file in sorted(ROOT.glob("jobs/**/*.yaml"))]
YAML_WORDS = (
    *("&a ", "*a", "*a, *a", "<<: *a", "!!bool x", "!!int ", "!!python/object:os.system ", "!x ", "2024-13-45", "0x1f"),
    *(
        "[",
        "]",
        "{",
        "}",
        "? ",
        "- ",
        ": ",
        "\n",
        "\t",
        "|",
        ">",
        "#",
        "---\n",
        "...\n",
        "%YAML 9.9\n",
        "'",
        '"',
        "\\ud800",
    ),
    *(
        "null",
        ".nan",
        "1e999",
        "0o9",
        "\ufeff",
        "model: ",
        "loras: [",
        "engine: {precision: fp8}",
        "file:///",
        "s3://b/",
    ),
)
KEYS = (
    "manifest",
    "output",
    "model.base",
    "model.loras",
    "engine.precision",
    "defaults.width",
    "inputs.allow",
    "a.b",
    "",
)


def try_run_file(random: Random, folder: Path) -> object:
    text = distorted(random, random.choice(RUN_FILES), YAML_WORDS).encode(errors="replace")
    file = folder / "run.yaml"
    file.write_bytes(damaged(random, text) if random.random() < 0.2 else text)
    return load_run_config(file, {}).to_yaml()


def try_override(random: Random, folder: Path) -> object:
    value = random.choice(("a", "[1, 2]", "{file: x, scale: 1}", "832", "!!bool x", "~/x"))
    key, value = parse_override(f"{random.choice(KEYS)}={distorted(random, value, YAML_WORDS)}")
    file = folder / "set.yaml"
    file.write_text(RUN_FILES[0])
    config = load_run_config(file, {key: value})
    return config.to_yaml(), locate_model(config.model)


WHERE = (
    "seed == 7 and width in [480, 832]",
    "not (prompt == 'a' or consent_expires_at < '2027-01-31')",
    "tags is None",
)
WHERE_WORDS = (
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "-",
        "tags",
        ".a",
        "['a']",
        "not ",
        "and ",
        "or ",
        " in ",
        " is ",
        "None",
        "==",
        "<",
        ",",
        "lambda: ",
        "row",
    ),
    *(
        "9**9**9",
        "1e999",
        "9" * 5000,
        "'\\ud800'",
        "b'x'",
        "f'{seed}'",
        "seed",
        "'0001-01-01T00:00:00+23:59'",
        "1j",
        "...",
    ),
)


def try_where(random: Random, folder: Path) -> object:
    tags = pa.array([[("a", "b")], None], MANIFEST_SCHEMA.field("tags").type)
    table = pa.table({"row": [0, 1], "seed": [1, None], "prompt": ["a", "b"], "tags": tags})
    return filter_rows(table, distorted(random, random.choice(WHERE), WHERE_WORDS))


NAME_WORDS = (
    "{",
    "}",
    "!r",
    "!z",
    ":d",
    ":c",
    ":>999",
    "9999",
    "%Y",
    "%n",
    ":,",
    ".2f",
    "{seed}",
    "{prompt:{seed}}",
    "[0]",
    "/",
)
ROW = dict.fromkeys(FILTER_COLUMNS) | {
    **{
        "run": "r",
        "row": 3,
        "clip_id": "ab12",
        "subject_id": "ada",
        "clip_name": "wave",
        "seed": 2**62,
        "ip_scale": 0.5,
    },
    "tags": [("city", "Köln"), ("any key", "../")],
    **{"prompt": "A person/..\n", "ended_at": datetime(2027, 1, 31, tzinfo=UTC), "error": "\ud800{row}"},
}


def try_name(random: Random, folder: Path) -> object:
    names = [f"{{{random.choice([*ROW, 'tags.city', 'tags[any key]'])}{spec}}}" for spec in ("", ":>9", "!r")]
    template = distorted(random, "/".join(["{subject_id}", *names]), NAME_WORDS)
    return claim_names([ROW], template, columns_of(template), set(), None)


# ---- photos and tables

URIS = (
    *("/photos/a.jpg", "photos/a.jpg", "file:///photos/a.jpg", "s3://bucket/a.jpg", "gs://bucket/a b/../c.jpg"),
    *("az://container@account.dfs.core.windows.net/a.jpg", "https://user:word@host:8080/a.jpg?sign=b%2Fc#d"),
    *("http://[2001:db8::1]:80/a.jpg", "http://127.0.0.1/a", "https://bücher.example/ä.jpg", "zip://a::s3://b/c"),
)
URI_WORDS = (
    *(
        "://",
        "::",
        "/",
        "..",
        "%2e%2e",
        "%ff",
        "@",
        ":",
        "[",
        "]",
        "?",
        "#",
        "\\",
        "127.1",
        "0x7f.1",
        "localhost",
        "::1",
    ),
    *(
        "s3a://",
        "HTTP://",
        "file:/",
        "ß",
        "①",
        "\u3002",
        "xn--",
        "a" * 64,
        "." * 300,
        ":99999",
        ":-1",
        "%00",
        "arn:aws:s3:x",
    ),
)
PLACES = (ANYWHERE, ("/photos/",), ("s3://bucket/a/", "http://127.0.0.1:8000/"), ("https://host/",))


def try_uri(random: Random, folder: Path) -> object:
    uri = distorted(random, random.choice(URIS), URI_WORDS)
    absolute = resolve(uri, random.choice(("/data", "s3://bucket/folder", "https://host/x")))
    allow = random.choice(PLACES)
    return explain_photo(absolute, allow), explain_entry(uri), redact(uri), scrub(f"cannot read {uri}", uri)


CSV = (
    "subject_uri,prompt,seed,width,guidance_scale,consent_expires_at,tags\n"
    'a.jpg,"A person, waving",7,832,5.5,2030-01-31,"{""a"": ""b""}"\n'
    "s3://b/a.jpg,Two,,480,,2027-01-31T12:00:00Z,\n"
)
TABLE_WORDS = (
    *(
        '"',
        '""',
        ",",
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\ufeff",
        "nan",
        "1e999",
        "9" * 5000,
        "-0",
        "2030-13-01",
        "0001-01-01T00:00:00+23:59",
    ),
    *("{", "}", "[", "]", '{"a": {"b": 1}}', '"\\ud800"', "null", "seed", "true", "NaN"),
)
JSON_ROW = {"subject_uri": "a.jpg", "prompt": "p", "seed": 7, "ip_scale": 0.5, "tags": {"a": "b"}}


def make_table(random: Random) -> tuple[str, bytes]:
    match random.randrange(3):
        case 0:
            encoding = random.choice(("utf-8", "utf-8", "utf-16", "cp1252"))
            return "rows.csv", distorted(random, CSV, TABLE_WORDS).encode(encoding, errors="replace")
        case 1:
            return "rows.jsonl", b"\n".join([damaged_json(random, JSON_ROW), json.dumps(JSON_ROW).encode()])
    return "rows.xlsx", damaged_workbook(random)


@cache
def workbook() -> bytes:
    """Every kind of cell: text, numbers, a time, and a formula without a saved value."""
    book, buffer = Workbook(), BytesIO()
    sheet = book.active
    for row in (
        ["Subject URI", "prompt", "seed", "Ort"],
        ["a.jpg", "A person waves.", 7, "Köln"],
        ["b.jpg", "=A2", 0.5],
    ):
        sheet.append(row)
    sheet["D3"] = datetime(2030, 1, 31)
    book.save(buffer)
    return buffer.getvalue()


def damaged_workbook(random: Random) -> bytes:
    """A workbook that is damaged itself, or one whose zip is whole and one file in it is damaged."""
    if random.random() < 0.3:
        return damaged(random, workbook())
    found = BytesIO()
    with zipfile.ZipFile(BytesIO(workbook())) as old, zipfile.ZipFile(found, "w") as new:
        chosen = random.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, damaged(random, content) if name == chosen else content)
    return found.getvalue()


def try_table(random: Random, folder: Path) -> object:
    name, content = make_table(random)
    file = folder / name
    file.write_bytes(damaged(random, content) if random.random() < 0.2 else content)
    table = build_from_table(read_source(str(file)), use=ColumnUse(keep=(ALL,)))
    write_manifest(place_photos(table, str(folder / "built.parquet")), str(folder / "built.parquet"))
    return check_rows(read_manifest(str(folder / "built.parquet")), DefaultsConfig(), InputsConfig(), str(folder))


TEMPLATE_WORDS = (
    "{{",
    "}}",
    "{",
    "}",
    "|",
    "!",
    ":",
    "{{city}}",
    "{{city|x}}",
    "{{city:3}}",
    "{{ city ! }}",
    "{{city|{{x}}}}",
)


def try_template(random: Random, _folder: Path) -> object:
    """What people put into a table is text, whatever it looks like."""
    text = distorted(random, "{{ city }} and {{Vor Name!}} or {{x:9|y}}.", TEMPLATE_WORDS)
    value = distorted(random, "Köln", TEMPLATE_WORDS)
    try:
        template = parse_template(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    columns = {part.name for part in template.fields}
    filled = fill(template, dict.fromkeys(columns, value))
    assert filled.faults or not columns or not value.strip() or " ".join(value.split()) in filled.prompt
    return filled


GRID_WORDS = ("=", ",", ":", "-", "1e9", "nan", "inf", "0.1", "guidance_scale", "1-8", "9:16-480p", "1_000")


def try_grid(random: Random, _folder: Path) -> object:
    vary = distorted(random, "ip_scale=0.6:1.0:0.2", GRID_WORDS)
    sizes, seeds = distorted(random, "9:16-480p", GRID_WORDS), distorted(random, "1-8,10", GRID_WORDS)
    axes = make_axes(*random.choice((([vary], [], None), ([], [sizes], None), ([], [], seeds))))
    return [*combine(axes)]


# ---- models


def _outline(file: Path) -> tuple[bytes, int]:
    """The JSON header of a safetensors file, and how many bytes come after it."""
    data = file.read_bytes()
    begin = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    return data[LENGTH_BYTES:begin], len(data) - begin


def _entry(*shape: int, start: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, start + 4 * shape[0] * shape[1]]}


QUERY = "transformer.blocks.0.attn1.to_q"
LORA = {
    "__metadata__": {"lora_adapter_metadata": json.dumps({"lora_alpha": 4, "use_dora": False})},
    f"{QUERY}.lora_A.weight": _entry(4, 96, start=0),
    f"{QUERY}.lora_B.weight": _entry(96, 4, start=1536),
}
FILES = {
    **{f"full/{name}": MODEL / "lynx_full" / name for name in ("ip_layers.safetensors", "ref_layers.safetensors")},
    "full/resampler.safetensors": MODEL / "lynx_full" / "resampler.safetensors",
    "full/lynx-adapter.json": MODEL / "lynx_full" / "lynx-adapter.json",
    **{
        f"base/{part}": BASE / part
        for part in (
            "transformer/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
            "transformer/config.json",
            "vae/config.json",
            "scheduler/scheduler_config.json",
        )
    },
}


def _damaged_header(random: Random, header: object, num_bytes: int) -> tuple[bytes, int]:
    """A header with its length, and the size of its file."""
    text = damaged_json(random, header)
    length = random.choice((0, 7, len(text) - 1, 2**31, 2**63, 2**64 - 1)) if random.random() < 0.1 else len(text)
    size = random.choice((0, 7, num_bytes - 1, num_bytes + 8)) if random.random() < 0.1 else num_bytes
    data = max(length, 0).to_bytes(LENGTH_BYTES, "little") + text
    data = damaged(random, data) if random.random() < 0.1 else data
    return data, len(data) + max(size, 0)


def _write_sparse(file: Path, data: bytes, size: int) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(data)
    os.truncate(file, size)


def _prepared(folder: Path) -> Path:
    """A whole model, in which tensors are holes of a file."""
    place = folder / "model"
    if not place.exists():
        copytree(BASE, place / "base")
        copytree(MODEL / "lynx_full", place / "full")
    return place


def try_model(random: Random, folder: Path) -> object:
    place, name = _prepared(folder), random.choice([*FILES, "lora.safetensors"])
    file, source = place / name, FILES.get(name)
    whole = source.read_bytes() if source else b""
    if name.endswith(".json"):
        file.unlink()
        file.write_bytes(damaged_json(random, json.loads(whole)))
    else:
        header, num_bytes = _outline(source) if source else (json.dumps(LORA).encode(), 3072)
        _write_sparse(file, *_damaged_header(random, json.loads(header), num_bytes))
    try:
        return _read_model(place, file)
    finally:
        file.unlink()
        if source and name.endswith(".json"):
            file.write_bytes(whole)
        elif source:
            _write_sparse(file, whole[: len(whole) - num_bytes], len(whole))


def _read_model(place: Path, file: Path) -> object:
    """As `render` checks a model. What is taken of a safetensors file, the library takes as well."""
    loras = (str(file),) if file.name == "lora.safetensors" else ()
    source = ModelSource.of(str(place / "base"), str(place / "full"), loras)
    base, adapters = check_base(Path(source.base)), describe_adapters(source.id_adapter, source.ref_adapter)
    check_fit(adapters, num_blocks=base.num_blocks, channels=base.channels)
    if file.suffix == ".safetensors" and read_header(file):
        with safe_open(file, "np"):
            pass
    return describe_loras(source), ModelTraits.of(source)


@cache
def _sample_clip() -> bytes:
    """Nine frames with a black and a frozen stretch."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 8, 12, 3), dtype=np.uint8)
    noise[:3], noise[5:] = 0, noise[5]
    return encode(noise.repeat(8, axis=1).repeat(8, axis=2))


def try_clip(random: Random, folder: Path) -> object:
    """The MP4 of a clip, as it is measured. What is measured of a damaged one can be told in JSON."""
    clip = read_clip(damaged(random, _sample_clip()), params=PARAMS, subject=make_subject())
    scores = TechnicalScorer().score(clip), MotionScorer().score(clip)
    return [json.dumps(asdict(each), allow_nan=False) for each in scores]


def try_scorer(random: Random, folder: Path) -> object:
    file = write_network(folder / "scorer.onnx")
    file.write_bytes(damaged(random, file.read_bytes()))
    return NsfwScorer.load_onnx(str(file))


KINDS = {
    "manifest": SimpleNamespace(read=try_manifest, num_inputs=1500),
    "run_file": SimpleNamespace(read=try_run_file, num_inputs=300),
    "override": SimpleNamespace(read=try_override, num_inputs=300),
    "where": SimpleNamespace(read=try_where, num_inputs=1500),
    "name": SimpleNamespace(read=try_name, num_inputs=1500),
    "uri": SimpleNamespace(read=try_uri, num_inputs=1500),
    "table": SimpleNamespace(read=try_table, num_inputs=150),
    "template": SimpleNamespace(read=try_template, num_inputs=1500),
    "grid": SimpleNamespace(read=try_grid, num_inputs=1000),
    "model": SimpleNamespace(read=try_model, num_inputs=600),
    "clip": SimpleNamespace(read=try_clip, num_inputs=150),
    "scorer": SimpleNamespace(read=try_scorer, num_inputs=300),
}


def what_comes_of(read: Try, seed: int, folder: Path) -> str:
    """ "success", the name of an error of ours, or a failure with its traceback."""
    begin_s = time.process_time()
    try:
        read(Random(seed), folder)
        end = "success"
    except LynxError as error:
        end = type(error).__name__
    except Exception:  # noqa: BLE001 - which is what is looked for
        return f"FAILURE\n{traceback.format_exc(limit=-4)}"
    took_s = time.process_time() - begin_s
    return end if took_s < LONGEST_S else f"FAILURE: took {took_s:.1f} s"


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_ends_in_success_or_an_error_of_ours(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    num_inputs = request.config.getoption("--fuzz") or KINDS[kind].num_inputs
    ends, failures = Counter[str](), []
    for seed in range(num_inputs):
        end = what_comes_of(KINDS[kind].read, seed, tmp_path)
        ends[end.partition("\n")[0].partition(":")[0]] += 1
        failures += [f"{kind}, seed {seed}: {end}"] if end.startswith("FAILURE") else []
    print(f"{kind}: {num_inputs} inputs, {dict(ends)}")
    assert not failures, "\n".join([f"{len(failures)} of {num_inputs}", *failures[:10]])
