"""What is read as a manifest, and what is refused."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynx_batch.config import DefaultsConfig, InputsConfig
from lynx_batch.errors import ConfigError, MissingObject
from lynx_batch.intake.check import check_rows
from lynx_batch.intake.consent import ConsentRules, reject_without_consent
from lynx_batch.intake.manifest import folder_of, read_manifest, write_manifest
from lynx_batch.intake.schema import MANIFEST_SCHEMA, MANIFEST_VERSION, VERSION_KEY

DATA = Path(__file__).parents[1] / "data"


def write(path: Path, **columns: object) -> str:
    """A Parquet file of `columns`, with the required ones filled in."""
    num_rows = max((len(column) for column in columns.values()), default=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    required = {name: ["any"] * num_rows for name in ("subject_uri", "prompt") if name not in columns}
    pq.write_table(pa.table({**required, **columns}), path)
    return str(path)


def read_column(path: Path, name: str, column: object) -> list[object]:
    return read_manifest(write(path / "m.parquet", **{name: column}))[name].to_pylist()


def test_a_written_manifest_says_its_version_and_is_read_again(tmp_path: Path) -> None:
    row = {"subject_uri": "a.jpg", "prompt": "一个人微笑", "seed": 2**62, "tags": [("campaign", "x")]}
    limits = {
        "ip_start": 0.1,
        "ip_end": 0.5,
        "ip_blocks": "8-31",
        "ref_end": 0.75,
        "guidance_until": 0.6,
        "image_guidance_every": 2,
    }
    table = pa.Table.from_pylist([row | limits], schema=MANIFEST_SCHEMA)
    write_manifest(table, str(tmp_path / "folder" / "m.parquet"))
    metadata = pq.read_schema(tmp_path / "folder" / "m.parquet").metadata
    assert metadata[VERSION_KEY] == str(MANIFEST_VERSION).encode()
    read = read_manifest(str(tmp_path / "folder" / "m.parquet"))
    assert read.drop_columns("row").to_pylist() == table.to_pylist()


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    table = pa.table({"subject_uri": ["a"], "prompt": ["b"]}).replace_schema_metadata({VERSION_KEY: "2"})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ConfigError, match="'2': this release reads version 1"):
        read_manifest(str(tmp_path / "m.parquet"))


def test_every_faulty_column_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    uri = write(tmp_path / "m.parquet", promt=["x"], Guidance_Scale=[1.0], sed=[1])
    pq.write_table(pq.read_table(uri).drop_columns("prompt"), uri)
    with pytest.raises(ConfigError) as caught:
        read_manifest(uri)
    assert str(caught.value).splitlines()[1:] == [
        "  column 'promt': unknown; the nearest known one is 'prompt'",
        "  column 'Guidance_Scale': unknown; the nearest known one is 'guidance_scale'",
        "  column 'sed': unknown; the nearest known one is 'seed'",
        "  column 'prompt': required, but missing",
    ]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("seed", ["7"]),
        ("seed", [7.5]),
        ("seed", [True]),
        ("seed", pa.array([2**64 - 1], pa.uint64())),
        ("width", [float("nan")]),
        ("prompt", [5]),
        ("prompt", pa.array([b"bytes"])),
        ("ip_scale", ["1.0"]),
        ("consent_expires_at", ["2030-01-01"]),
        ("consent_expires_at", pa.array([2**62], pa.timestamp("us"))),
        ("tags", pa.array([[("n", 1)]], pa.map_(pa.string(), pa.int64()))),
    ],
)
def test_a_column_of_a_wrong_type_is_refused_by_name(tmp_path: Path, name: str, column: object) -> None:
    with pytest.raises(ConfigError, match=f"column '{name}'"):
        read_column(tmp_path, name, column)


def test_a_column_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = Path(write(tmp_path / "m.parquet", seed=[1]))
    file.write_bytes(file.read_bytes().replace(b"seed", b"s\xffed"))
    with pytest.raises(ConfigError, match=r"m\.parquet: must be a Parquet file \('utf-8' codec"):
        read_manifest(str(file))


@pytest.mark.parametrize("labels", ["5", "null", "true", '"prompt"', '{"a": 1}', '[{"kind": "range"}]'])
def test_a_note_of_pandas_that_is_none_is_left_out(tmp_path: Path, labels: str) -> None:
    table = pa.table({"subject_uri": ["a.jpg"], "prompt": ["p"]})
    note = {"pandas": f'{{"index_columns": {labels}}}'}
    pq.write_table(table.replace_schema_metadata(note), tmp_path / "m.parquet")
    assert read_manifest(str(tmp_path / "m.parquet")).num_rows == 1


def test_text_that_is_not_utf8_is_refused_by_column(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe"))
    with pytest.raises(ConfigError, match="column 'prompt'"):
        read_column(tmp_path, "prompt", broken)


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("seed", pa.array([7], pa.int8()), 7),
        ("seed", pa.array([7], pa.uint64()), 7),
        ("width", [832.0], 832),
        ("guidance_scale", [5], 5.0),
        ("guidance_scale", [Decimal("5.5")], 5.5),
        ("ip_scale", pa.array([Decimal("0.7")], pa.decimal128(10, 3)), 0.7),
        ("ip_scale", pa.array([Decimal("0.7")], pa.decimal256(50, 30)), 0.7),
        ("ip_scale", pa.array([Decimal("0.7")], pa.decimal128(10, 3)).dictionary_encode(), 0.7),
        ("ip_scale", pa.array([0.7], pa.float32()), 0.7),
        ("ip_scale", pa.array([np.float16(0.7)], pa.float16()), 0.7),
        ("ip_scale", pa.array([None], pa.float16()), None),
        ("ip_scale", pa.array([1e-7], pa.float32()), 1e-7),
        ("ip_scale", [0.1 + 0.2], 0.1 + 0.2),
        ("seed", pa.array([Decimal("7")], pa.decimal128(10, 3)), 7),
        ("prompt", pa.array(["微笑"], pa.large_string()), "微笑"),
        ("prompt", pa.array(["微笑"], pa.string_view()), "微笑"),
        ("subject_id", pa.array(["ada"]).dictionary_encode(), "ada"),
        ("clip_name", pa.nulls(1), None),
        ("tags", pa.nulls(1), None),
        ("tags", pa.array([[("a", "b")]], pa.map_(pa.large_string(), pa.large_string())), [("a", "b")]),
        ("consent_expires_at", pa.array([1], pa.timestamp("ns")), datetime(1970, 1, 1, tzinfo=UTC)),
        ("consent_expires_at", [datetime(2030, 1, 1)], datetime(2030, 1, 1, tzinfo=UTC)),
        ("consent_expires_at", [date(2030, 1, 1)], datetime(2030, 1, 1, tzinfo=UTC)),
        ("consent_expires_at", [date(9999, 12, 31)], datetime(9999, 12, 31, tzinfo=UTC)),
        ("consent_expires_at", [datetime(1, 1, 1)], datetime(1, 1, 1, tzinfo=UTC)),
        ("consent_expires_at", pa.array([0], pa.timestamp("s", "Asia/Tokyo")), datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_what_other_writers_write_is_taken_if_nothing_is_lost(
    tmp_path: Path, name: str, column: object, expected: object
) -> None:
    assert read_column(tmp_path, name, column) == [expected]


@pytest.mark.parametrize("year", [1, 1600, 2027, 2262, 2263, 2846, 9999])
def test_a_time_that_spark_wrote_is_the_one_that_was_meant(tmp_path: Path, year: int) -> None:
    """As INT96, which Arrow reads as nanoseconds if nothing else is asked for, and those wrap beyond the year 2262."""
    times = [datetime(year, 12, 31, 23, 59, 59, 123456), None]
    table = pa.table({"subject_uri": ["a"] * 2, "prompt": ["a"] * 2, "consent_expires_at": times})
    pq.write_table(table, tmp_path / "m.parquet", use_deprecated_int96_timestamps=True)
    read = read_manifest(str(tmp_path / "m.parquet"))["consent_expires_at"].to_pylist()
    assert read == [times[0].replace(tzinfo=UTC), None]


def test_a_consent_for_ever_that_spark_wrote_is_valid_for_ever() -> None:
    table = read_manifest(str(Path(__file__).parents[1] / "data" / "consent-int96-9999.parquet"))
    requests, problems = check_rows(table, DefaultsConfig(), InputsConfig(), "/photos")
    assert problems == []
    kept, expired = reject_without_consent(requests, ConsentRules(is_required=False), datetime(2029, 1, 1, tzinfo=UTC))
    assert ([request.row for request in kept], expired) == ([0, 1], [])


def test_a_year_that_cannot_be_counted_to_is_told_with_its_row(tmp_path: Path) -> None:
    times = pa.array([0, 253_402_300_800], pa.timestamp("s"))
    with pytest.raises(
        ConfigError, match=r"'consent_expires_at'.*: row 1 of the file: must lie in the years 1 to 9999"
    ):
        read_column(tmp_path, "consent_expires_at", times)


def test_rows_keep_their_position_in_the_whole_manifest(tmp_path: Path) -> None:
    uri = write(tmp_path / "m.parquet", seed=list(range(10)))
    chosen = read_manifest(uri, where="seed >= 4", limit=3)
    assert chosen["row"].to_pylist() == [4, 5, 6]
    assert chosen["seed"].to_pylist() == [4, 5, 6]
    assert read_manifest(uri, limit=0).num_rows == 0


def test_parts_of_a_folder_are_one_manifest_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "m" / "part-1.parquet", seed=[2, 3])
    write(tmp_path / "m" / "part-0.parquet", prompt=["a", "b"])
    (tmp_path / "m" / "_SUCCESS").touch()
    table = read_manifest(str(tmp_path / "m"))
    assert table["row"].to_pylist() == [0, 1, 2, 3]
    assert table["seed"].to_pylist() == [None, None, 2, 3]


def test_names_of_folders_are_columns_of_the_schemas_types(tmp_path: Path) -> None:
    write(tmp_path / "m" / "subject_id=007" / "seed=5" / "p.parquet")
    write(tmp_path / "m" / "subject_id=%E5%BE%AE%20x" / "seed=__HIVE_DEFAULT_PARTITION__" / "p.parquet")
    table = read_manifest(str(tmp_path / "m"))
    assert table["subject_id"].to_pylist() == ["微 x", "007"]
    assert table["seed"].to_pylist() == [None, 5]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("prompt=x", "column 'prompt' must not be both"),
        ("sed=5", "column 'sed': unknown; the nearest known one is 'seed'"),
        ("seed=five", "folder seed='five': must be a whole number"),
    ],
)
def test_a_folder_that_is_no_column_of_its_own_is_refused(tmp_path: Path, folder: str, message: str) -> None:
    write(tmp_path / "m" / folder / "p.parquet")
    with pytest.raises(ConfigError, match=message):
        read_manifest(str(tmp_path / "m"))


def test_a_fault_of_a_later_part_is_found_and_its_file_named(tmp_path: Path) -> None:
    write(tmp_path / "m" / "a.parquet")
    write(tmp_path / "m" / "b.parquet", sed=[5])
    with pytest.raises(ConfigError, match=r"b\.parquet:\n  column 'sed'"):
        read_manifest(str(tmp_path / "m"))


def test_nothing_at_all_is_missing_and_a_folder_without_parts_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(MissingObject, match=r"m\.parquet"):
        read_manifest(str(tmp_path / "m.parquet"))
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(ConfigError, match="must hold a Parquet file"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"subject_uri,prompt\n", b"PAR1....PAR1"])
def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match=r"m\.parquet: must be a Parquet file"):
        read_manifest(str(tmp_path / "m.parquet"))


def test_a_manifest_without_rows_is_one(tmp_path: Path) -> None:
    pq.write_table(MANIFEST_SCHEMA.empty_table(), tmp_path / "m.parquet")
    assert read_manifest(str(tmp_path / "m.parquet")).num_rows == 0


def test_photos_start_from_the_manifests_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "m.parquet")
    monkeypatch.chdir(tmp_path)
    assert folder_of("m.parquet") == str(tmp_path)
    assert folder_of(str(tmp_path / "m.parquet")) == str(tmp_path)
    assert folder_of(str(tmp_path)) == str(tmp_path)


def test_a_manifest_in_a_store_is_read_and_its_photos_lie_beside_it() -> None:
    table = pa.Table.from_pylist([{"subject_uri": "a.jpg", "prompt": "微笑"}], schema=MANIFEST_SCHEMA)
    for name in ("seed=1/a.parquet", "seed=2/b.parquet"):
        write_manifest(table.drop_columns("seed"), f"memory://bucket/m/{name}")
    assert read_manifest("memory://bucket/m")["seed"].to_pylist() == [1, 2]
    assert folder_of("memory://bucket/m") == "memory://bucket/m"
    assert folder_of("memory://bucket/m/seed=1/a.parquet") == "memory://bucket/m/seed=1"


def test_the_index_of_a_filtered_dataframe_is_no_column() -> None:
    table = read_manifest(str(DATA / "pandas-filtered-index.parquet"))
    assert table.column_names == ["row", "subject_uri", "prompt", "seed", "priority"]


def test_an_index_that_is_a_column_of_the_manifest_counts(tmp_path: Path) -> None:
    table = pa.table({"subject_uri": ["a"], "prompt": ["p"], "clip_name": ["n"]})
    noted = table.replace_schema_metadata({b"pandas": b'{"index_columns": ["clip_name"]}'})
    pq.write_table(noted, tmp_path / "m.parquet")
    assert read_manifest(str(tmp_path / "m.parquet"))["clip_name"].to_pylist() == ["n"]


PAIRS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))


@pytest.mark.parametrize(
    "tags",
    [
        pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string())),
        pa.array([[{"key": "k", "value": "v"}], None], PAIRS),
        pa.array([[{"key": "k", "value": "v"}], None], pa.large_list(PAIRS.value_type)),
        pa.array([{"k": "v", "other": None}, None], pa.struct([("k", pa.string()), ("other", pa.string())])),
        pa.array(['{"k": "v"}', None]),
    ],
    ids=["map", "polars", "large list", "struct", "JSON"],
)
def test_tags_are_taken_in_whatever_shape_a_tool_writes_them(tmp_path: Path, tags: pa.Array) -> None:
    pq.write_table(pa.table({"subject_uri": ["a", "b"], "prompt": ["p", "q"], "tags": tags}), tmp_path / "m.parquet")
    assert read_manifest(str(tmp_path / "m.parquet"))["tags"].to_pylist() == [[("k", "v")], None]


def test_a_map_that_polars_wrote_is_read() -> None:
    assert read_manifest(str(DATA / "polars-tags.parquet"))["tags"].to_pylist() == [[("k", "v")]]


@pytest.mark.parametrize(
    "tags", [["k=v"], ["[1]"], ['{"k": 1}'], [["k", "v"]], [{"k": 1}], ['{"k": "v", "k": "w"}'], ["[" * 10**5]]
)
def test_what_holds_no_tags_is_told(tmp_path: Path, tags: list[object]) -> None:
    pq.write_table(pa.table({"subject_uri": ["a"], "prompt": ["p"], "tags": tags}), tmp_path / "m.parquet")
    with pytest.raises(ConfigError, match=r"column 'tags' of type .*: must be a map of text to text"):
        read_manifest(str(tmp_path / "m.parquet"))
