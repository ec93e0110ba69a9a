"""Approvals: what they cover, what is refused and how it is named, and what they keep. Real ledgers; nothing is rendered."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from lynx_batch import storage
from lynx_batch.clip import ClipRequest
from lynx_batch.config import RunConfig, parse_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.approvals import Approval, read_approvals
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.runs import RunRecord, write_run_record
from lynx_batch.planning.approval import Approved, Setting, collect_values, find_differences, is_made_from, values_of
from lynx_batch.preparation.approval import (
    check_approved,
    describe_approvals,
    explain_missing_approval,
    place_of_sample,
    settings_of,
)
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.package import pack
from lynx_batch.preparation.selection import Selection
from lynx_model.spec import RenderParams
from tests.builders import (
    COLLINS,
    IDENTITY,
    NOW,
    checked_model,
    ended,
    make_clip,
    make_request,
    record,
    row,
    tiny_run,
    write_manifest,
    write_metadata,
)
from tests.jobs import invoke
from tests.models import BASE, MODEL

HELLO, BYE = "Hello {{name}}!", "Bye {{name}}!"
SETTINGS = {"model.base": "b", "quality.likeness.min_mean": 0.4}


def asked(number: int, template: str | None = HELLO, **params: object) -> ClipRequest:
    """A row with a prompt of its own, which may be made from a template."""
    prompt = (template or "prompt {{name}}").replace("{{name}}", str(number))
    return make_request(RenderParams(prompt=prompt, **params), row=number, prompt_template=template)


def rows_of(*requests: ClipRequest) -> dict[tuple[object, ...], list[int]]:
    rows: dict[tuple[object, ...], list[int]] = {}
    for request in requests:
        rows.setdefault(values_of(request), []).append(request.row)
    return rows


def approved(*requests: ClipRequest, **settings: object) -> Approved:
    return Approved(settings=SETTINGS | settings, values=collect_values(map(values_of, requests)))


def said(requests: list[ClipRequest], *approvals: Approved, **settings: object) -> list[str]:
    return [*map(str, find_differences(SETTINGS | settings, rows_of(*requests), approvals))]


# --- what an approval covers ---


def test_a_template_is_approved_for_every_name_that_is_filled_in() -> None:
    assert said([asked(1), asked(2)], approved(asked(0))) == []
    assert said([asked(7, BYE)], approved(asked(0))) == ["template 'Bye {{name}}!': was not approved (row 7)"]


def test_a_prompt_without_a_template_is_its_own() -> None:
    by_hand = asked(0, None)
    assert said([replace(by_hand, row=1)], approved(by_hand)) == []
    assert said([asked(1, None)], approved(by_hand)) == ["template 'prompt 1': was not approved (row 1)"]


def test_a_prompt_that_does_not_fit_its_template_is_its_own() -> None:
    """The column is the user's, so it proves nothing by itself."""
    claimed = replace(asked(1), params=replace(asked(1).params, prompt="Buy now!"))
    assert said([claimed], approved(asked(0))) == ["template 'Buy now!': was not approved (row 1)"]


@pytest.mark.parametrize(
    ("template", "prompt", "fits"),
    [
        ("A person waves in {{city|Berlin}}.", "A person waves in Ulm.", True),
        ("A person waves in {{city|Berlin}}.", "A person waves in .", True),
        ("A person waves in {{city|Berlin}}.", "A person dances in Ulm.", False),
        ("{{who}} and {{whom:9}} meet.", "Ada and Grace meet.", True),
        ("{{who}} and {{whom:9}} meet.", "Ada or Grace meet.", False),
        ("{{ who! }} waves", "她 waves", True),
        ("Hi {{name}}, {{name}}!", "Hi , !", True),
        ("Hi  {{name}}\nthere", "Hi Ada there", True),
        ("ab{{x}}ba", "aba", False),
        ("A person waves.", "A person waves.", True),
        ("A person waves.", "A person waves. Or not.", False),
    ],
)
def test_a_prompt_is_made_from_a_template(template: str, prompt: str, fits: bool) -> None:
    assert is_made_from(prompt, template) is fits


def test_a_parameter_may_have_the_values_that_were_seen() -> None:
    seen = approved(asked(0, guidance_scale=4.0), asked(1, guidance_scale=6.0, flow_shift=3.0))
    assert said([asked(2, guidance_scale=6.0)], seen) == []
    assert said([asked(3, guidance_scale=7.0), asked(4, guidance_scale=7.0, seed=9)], seen) == [
        "guidance_scale=7.0: approved is 4.0, 6.0 (rows 3, 4)"
    ]


def test_an_approval_from_before_a_parameter_existed_covers_the_value_that_changes_nothing() -> None:
    later = ("image_guidance_every", "ip_end", "ip_blocks")
    known = {name: values for name, values in approved(asked(0)).values.items() if name not in later}
    old = Approved(settings=SETTINGS, values=known)
    assert said([asked(0)], old) == []
    assert said([asked(1, image_guidance_every=2)], old) == ["image_guidance_every=2: approved is 1 (row 1)"]


def test_weights_and_limits_must_be_the_approved_ones() -> None:
    assert said([asked(1)], approved(asked(0)), **{"model.base": "c", "quality.likeness.min_mean": 0.1}) == [
        "model.base='c': approved is 'b'",
        "quality.likeness.min_mean=0.1: approved is 0.4",
    ]
    assert said([asked(1)], approved(asked(0), **{"provenance.marking": "required"})) == [
        "provenance.marking=null: approved is 'required'"
    ]


def test_one_approval_must_cover_all_of_a_row() -> None:
    """Nobody has seen the second template with the first guidance."""
    both = approved(asked(0, HELLO, guidance_scale=4.0)), approved(asked(0, BYE, guidance_scale=6.0))
    assert said([asked(1, HELLO, guidance_scale=4.0), asked(2, BYE, guidance_scale=6.0)], *both) == []
    assert said([asked(3, BYE, guidance_scale=4.0)], *both) == ["guidance_scale=4.0: approved is 6.0 (row 3)"]


def test_what_is_refused_is_compared_with_the_closest_approval() -> None:
    far, near = approved(asked(0, BYE, fps=8), **{"model.base": "old"}), approved(asked(0))
    assert said([asked(1, fps=24)], near, far) == ["fps=24: approved is 16 (row 1)"]


# --- what a run records and refuses ---


@pytest.fixture
def make_config(tmp_path: Path, face_pack: Path) -> Callable[..., RunConfig]:
    def make(**sections: object) -> RunConfig:
        places = {"manifest": str(tmp_path / "manifest.parquet"), "output": str(tmp_path / "out")}
        required = {"approval": {"required": True}}
        return parse_run_config(tiny_run(face_pack, **(places | required | sections)), source="test")

    return make


def settings_for(config: RunConfig) -> dict[str, Setting]:
    """Those of a run on the tiny model, without looking at its weights."""
    return settings_of(config, checked_model())


def sample_rendered(
    output: str, requests: list[ClipRequest], settings: dict[str, Setting], run_id: str = "r1", rendered_by: str = ""
) -> None:
    """A run at that place, or the run `rendered_by` before it, has rendered all of these rows but the last."""
    clips = [make_clip(f"{request.row:032x}", request, photo_sha256="1" * 64) for request in requests]
    started = RunRecord(started_at=NOW, num_rows=len(clips), settings=settings)
    manifest = pa.table({"row": range(len(clips)), "subject_uri": ["a.jpg"] * len(clips)})
    write_run_record(output, run_id, started, run_yaml=b"", manifest=manifest, environment={})
    made = {clip.clip_id: record(clip.clip_id, run_id=rendered_by or run_id) for clip in clips}
    rows = [replace(ended(Outcome.RENDERED, clip), commit=made[clip.clip_id]) for clip in clips[:-1]]
    write_metadata(output, run_id, [*rows, ended(Outcome.FAILED, clips[-1])])


def approve(output: str, *options: str) -> None:
    result = invoke("approve", output, "--by", "Ada L.", *options)
    assert result.exit_code == 0, result.output


def test_a_run_is_refused_until_its_sample_is_approved(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    settings, place = settings_for(config), place_of_sample(config)
    with pytest.raises(
        ConfigError, match=r"nobody has approved anything yet.*lynx-batch approve .*out-sample --by NAME"
    ):
        check_approved(config, settings, [asked(5)])
    sample_rendered(place, [asked(0), asked(1, guidance_scale=4.0), asked(2, BYE)], settings)
    approve(place)

    (found,) = check_approved(config, settings, [asked(5), asked(6, guidance_scale=4.0)])

    assert found.startswith(f"{place}/approvals/")
    with pytest.raises(ConfigError) as refused:
        check_approved(config, settings | {"model.base": "other"}, [asked(5, guidance_scale=9.0), asked(6, BYE)])
    assert str(refused.value).splitlines()[:4] == [
        "approval.required: not approved, so nothing was started (3 differences):",
        "  model.base='other': approved is 'b'",
        "  guidance_scale=9.0: approved is 4.0, 5.0 (row 5)",
        f"  template '{BYE}': was not approved (row 6)",
    ], "the clip of that template failed, so nobody has seen it"
    assert check_approved(make_config(approval={}), {}, [asked(6, BYE)]) == (), "no approval is required"


def test_a_refusal_is_foreseen_until_the_sample_is_approved(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    settings, place = settings_for(config), place_of_sample(config)
    for told in (explain_missing_approval(config, settings, [asked(5)]), describe_approvals(config, settings)[1]):
        assert str(told).startswith(
            "approval.required: nobody has approved anything yet, so `render` and `submit` will"
        )
    sample_rendered(place, [asked(0), asked(1)], settings)
    approve(place)

    assert explain_missing_approval(config, settings, [asked(5)]) is None
    assert describe_approvals(config, settings) == (
        True,
        "1 approval, and the settings are approved; `plan` compares the rows, too",
    )
    assert str(explain_missing_approval(config, settings, [asked(6, BYE)])).splitlines()[:2] == [
        "approval.required: not approved, so `render` and `submit` will start nothing (1 difference):",
        f"  template '{BYE}': was not approved (row 6)",
    ]
    is_approved, told = describe_approvals(config, settings | {"model.base": "other"})
    assert (is_approved, told.splitlines()[1]) == (False, "  model.base='other': approved is 'b'")
    assert explain_missing_approval(make_config(approval={}), {}, [asked(6, BYE)]) is None


def test_approvals_at_the_output_itself_count_too(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    sample_rendered(config.output, [asked(0), asked(1)], settings_for(config))
    approve(config.output)
    assert len(check_approved(config, settings_for(config), [asked(5)])) == 1


def test_clips_of_an_earlier_sample_count_only_if_its_settings_were_the_same(
    make_config: Callable[..., RunConfig],
) -> None:
    """The commits of clips do not depend on their marks, so a sample may find clips with an old label."""
    config = make_config()
    place, settings = place_of_sample(config), settings_for(config)
    sample_rendered(place, [asked(0), asked(1)], settings | {"provenance.label.text": "old"}, "r1")
    sample_rendered(place, [asked(0), asked(1)], settings, "r2", rendered_by="r1")
    result = invoke("approve", place, "--by", "Ada L.", "--run", "r2")
    assert result.exit_code == 2
    assert "run r2 of" in result.output
    assert "must have a clip that was rendered with its settings" in result.output
    sample_rendered(place, [asked(0), asked(1)], settings, "r3")
    sample_rendered(place, [asked(0), asked(1)], settings, "r4", rendered_by="r3")
    approve(place, "--run", "r4")


def test_only_the_listed_clips_are_approved(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = make_config()
    place = place_of_sample(config)
    sample_rendered(place, [asked(0), asked(1, BYE), asked(2)], settings_for(config))
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(f"clip_id,decision\n{0:032x},approve\n{1:032x},reject\n", encoding="utf-8")
    approve(place, "--list", str(decisions))
    ((_, approval),) = read_approvals(place)
    assert approval.clip_ids == (f"{0:032x}",)
    with pytest.raises(ConfigError, match=r"template 'Bye \{\{name\}\}!': was not approved"):
        check_approved(config, settings_for(config), [asked(5), asked(6, BYE)])


def test_a_record_has_no_text_and_is_never_replaced(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    place = place_of_sample(config)
    sample_rendered(place, [asked(0, negative_prompt="no hats"), asked(1)], settings_for(config))
    approve(place)
    approve(place)
    records = [storage.read_bytes(uri).decode() for uri, _ in read_approvals(place)]
    assert len(records) == 2
    for text in records:
        assert not any(word in text for word in ("Hello", "prompt 0", "no hats", "a.jpg"))
        assert (json.loads(text)["approved_by"], json.loads(text)["run_id"]) == ("Ada L.", "r1")


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--by", " "], "--by ' ': must be a name"),
        (["--by", "Ada", "--run", "r9"], "--run 'r9': must be a run of"),
        (["--by", "Ada", "--run", "old"], "must have recorded its settings, but an older release made it"),
        (["--by", "Ada", "--run", "failed"], "run failed of"),
    ],
)
def test_what_cannot_be_approved_is_told(tmp_path: Path, arguments: list[str], rule: str) -> None:
    output = str(tmp_path / "out")
    for run_id, settings in (("old", {}), ("failed", {"a": 1})):
        sample_rendered(output, [asked(0)], settings, run_id)
    result = invoke("approve", output, *arguments)
    assert result.exit_code == 2
    assert rule in result.output


def test_the_settings_are_those_that_a_viewer_may_see(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    logo = tmp_path / "logo.png"
    Image.new("RGBA", (8, 8)).save(logo)
    quality = {"likeness": {"min_mean": 0.4}, "keep_rejected": "clip"}
    provenance = {"marking": "required", "label": {"logo": str(logo)}, "aigc": {"content_producer": "Example"}}
    config = make_config(quality=quality, provenance=provenance | {"use": {"scope": "ad"}})
    settings = settings_for(config)
    assert settings["model.adapters.id"] == IDENTITY.id_adapter
    assert settings["engine"] == IDENTITY.precision
    assert settings["quality.likeness.min_mean"] == 0.4
    assert settings["provenance.aigc.content_producer"] == "Example"
    assert settings["provenance.label.logo"] == hashlib.sha256(logo.read_bytes()).hexdigest(), "wherever it is"
    assert not {"quality.keep_rejected", "provenance.use.scope", "quality.likeness.min_p10"} & settings.keys()
    Image.new("RGBA", (9, 9)).save(logo)
    assert settings_for(config)["provenance.label.logo"] != settings["provenance.label.logo"]
    assert (
        Approval.model_validate_json(
            Approval(
                approved_at=NOW, approved_by="A", run_id="r", clip_ids=(), settings=settings, values={}
            ).model_dump_json()
        ).settings
        == settings
    ), "an approval keeps them as they are"


def test_other_weights_are_other_settings(make_config: Callable[..., RunConfig]) -> None:
    full, lite = (
        make_config(model={"base": str(BASE), "adapters": str(MODEL / name)}) for name in ("lynx_full", "lynx_lite")
    )
    found = [settings_of(config, check_model(config)) for config in (full, lite)]
    differing = {name for name in found[0] if found[0][name] != found[1].get(name)}
    assert differing == {"model.adapters.id", "model.adapters.ref"}


def test_the_sample_lies_apart_from_the_output(make_config: Callable[..., RunConfig]) -> None:
    assert place_of_sample(make_config(output="s3://bucket/out/")) == "s3://bucket/out-sample"
    named = make_config(output="s3://bucket", approval={"sample": "s3://samples/a"})
    assert place_of_sample(named) == "s3://samples/a"
    with pytest.raises(
        ConfigError, match=r"approval\.sample: must name a place, because output=s3://bucket is a bucket"
    ):
        place_of_sample(make_config(output="s3://bucket"))
    for inside in ("s3://bucket/out/sample", "s3://bucket/out", "s3://bucket"):
        with pytest.raises(ConfigError, match="must be apart from output='s3://bucket/out'"):
            place_of_sample(make_config(output="s3://bucket/out", approval={"sample": inside}))
    with pytest.raises(ConfigError, match=r"approval\.sample: must be a path or a URI with one of the schemes"):
        make_config(approval={"sample": "https://host/a"})


def test_a_job_is_refused_before_it_travels(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", [row(COLLINS)])
    config = make_config(cluster={"shared_paths": ["/"]})
    with pytest.raises(ConfigError, match="nobody has approved anything yet"):
        pack(config, Selection(), tmp_path)
    assert not (tmp_path / "run.yaml").exists()
