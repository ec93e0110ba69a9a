"""A parameter of a clip is described once, in RenderParams; run file, manifest, metadata and names follow."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_batch.columns import REAL, TEXT, WHOLE
from lynx_batch.config import DefaultsConfig
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.ledger.metadata import METADATA_SCHEMA, SCORE_COLUMNS
from lynx_model.errors import InvalidParams
from lynx_model.parameters import PARAMETERS, check_parameter
from lynx_model.spec import RenderParams
from tests.models import OLD_OUTPUT, ROOT

DEFAULTED = [name for name in PARAMETERS if name != "prompt"]


def test_run_file_manifest_and_metadata_have_every_parameter() -> None:
    assert [*PARAMETERS] == [field.name for field in fields(RenderParams)]
    assert [*DefaultsConfig.model_fields] == [*DEFAULTED, "truncate_prompts"]
    assert set(PARAMETERS) <= set(MANIFEST_SCHEMA.names)
    assert set(PARAMETERS) <= set(METADATA_SCHEMA.names)


@pytest.mark.parametrize("schema", [MANIFEST_SCHEMA, METADATA_SCHEMA], ids=["manifest", "metadata"])
def test_columns_have_the_types_of_their_parameters(schema: pa.Schema) -> None:
    types = {name: schema.field(name).type for name in PARAMETERS}
    texts = {"prompt", "negative_prompt", "ip_blocks", "ref_blocks"}
    assert {name for name, type_ in types.items() if type_ == TEXT} == texts
    wholes = {"width", "height", "num_frames", "fps", "num_inference_steps", "seed", "image_guidance_every"}
    assert {name for name, type_ in types.items() if type_ == WHOLE} == wholes
    assert {name for name, type_ in types.items() if type_ == REAL} == set(PARAMETERS) - texts - wholes


def test_the_metadata_table_has_the_columns_of_old_outputs_in_their_order() -> None:
    (part,) = (OLD_OUTPUT / "metadata").rglob("*.parquet")
    old = [(field.name, field.type) for field in pq.read_schema(part)]
    columns = [(field.name, field.type) for field in METADATA_SCHEMA]
    later = {"edition", "face_turned_degrees", "judge_s", "mark_s", "preview_uri", "marks", *SCORE_COLUMNS, "scores"}
    later |= {"try_number", "num_tries", "thresholds", "accepted_by", "accepted_at"}
    later |= {"consent_scope", "regions", "allows_missing_consent", "prompt_template", "image_guidance_every"}
    later |= {"subject_uris", "manifest_subject_uri", "manifest_subject_uris", "photo_sha256s", "num_steps_resumed"}
    assert [column for column in columns if column[0] not in later] == old


def test_parameters_that_may_be_none_are_those_whose_type_says_so() -> None:
    optional = {name for name, parameter in PARAMETERS.items() if parameter.is_optional}
    assert optional == {"guidance_scale_image", "flow_shift", "ip_blocks", "ref_blocks"}
    for name in optional:
        check_parameter(name, None)


def test_every_parameter_is_explained_in_one_line() -> None:
    for name, parameter in PARAMETERS.items():
        assert parameter.help.endswith("."), name
        assert "\n" not in parameter.help, name
        assert parameter.rule is not None or name == "negative_prompt"
        assert DEFAULTED.count(name) == 0 or DefaultsConfig.model_fields[name].description.startswith(parameter.help)


def test_a_parameter_is_neutral_by_default() -> None:
    plain = RenderParams(prompt="any")
    neutral = {name: each.neutral for name, each in PARAMETERS.items() if each.neutral is not MISSING}
    assert neutral
    assert replace(plain, **neutral) == plain


FIELD = """
    grain: float = field(default=0.0, metadata=about("Strength of the film grain.", STRENGTH, neutral=0.0))

    def __post_init__"""

USE_OF_THE_FIELD = """
import pyarrow as pa
from lynx_batch.clip import broken_rule
from lynx_batch.config import DefaultsConfig, InputsConfig
from lynx_batch.intake.check import check_rows
from lynx_batch.ledger.metadata import METADATA_SCHEMA, SCORE_COLUMNS
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_model.canonical import ModelTraits, canonicalize

traits = ModelTraits(num_blocks=4, id_stride=1, has_ref=True, has_image_guidance=True, flow_shift=3.0)

def form(grain, default):
    table = pa.table({"row": [0], "subject_uri": ["/a.jpg"], "prompt": ["x"], "grain": pa.array([grain], pa.float64())})
    (request,), _ = check_rows(table, DefaultsConfig(grain=default), InputsConfig(), "/")
    texts = dict.fromkeys((request.params.prompt, request.params.negative_prompt), "")
    return canonicalize(request.params, traits, texts)

assert MANIFEST_SCHEMA.field("grain").type == METADATA_SCHEMA.field("grain").type == pa.float64()
assert METADATA_SCHEMA.names.index("grain") == METADATA_SCHEMA.names.index("seed") - 1
assert broken_rule("grain", 11) == "must be between 0 and 10"
assert "grain" not in form(None, 0.0) and "grain" not in form(0.0, 5.0)
assert form(None, 5.0)["grain"] == form(5.0, 0.0)["grain"] == 5
"""


def test_a_new_parameter_needs_one_new_field(tmp_path: Path) -> None:
    for package in ("lynx_model", "lynx_batch"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "lynx_model" / "parameters.py"
    before, after = file.read_text().split("\n    def __post_init__")
    file.write_text(before + FIELD + after)
    command = [sys.executable, "-c", USE_OF_THE_FIELD]
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt": st.sampled_from(["", "smiles"]),
            "seed": st.integers(-1, 9),
            "width": st.sampled_from([64, 65]),
            "ip_start": st.sampled_from([0.0, 0.5, 0.9]),
            "ip_end": st.sampled_from([0.4, 1.0, 2.0]),
            "ref_blocks": st.sampled_from([None, "0-1", "1-0"]),
        },
    )
)
def test_a_changed_copy_obeys_the_rules_as_a_new_object_does(values: dict[str, object]) -> None:
    params = RenderParams(prompt="waves", ip_end=0.6)

    def made(change: Callable[..., RenderParams]) -> object:
        try:
            return change(**values)
        except InvalidParams:
            return None

    assert made(params.changed) == made(partial(replace, params))
