import json
from collections.abc import Mapping
from dataclasses import Field, asdict, fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_batch.clip import CLIP_ID_LENGTH, ClipRequest, Naming, RenderIdentity, broken_rule, canonical_json, identify
from lynx_model.canonical import ModelTraits, canonicalize
from lynx_model.parameters import MAX_SEED
from lynx_model.spec import RenderParams
from tests.builders import make_request, with_photos

IDENTITY = RenderIdentity(
    base="b",
    id_adapter="i",
    ref_adapter="r",
    face_pack="f",
    identity_encoder="e",
    is_parity=False,
    precision="bfloat16",
)
TRAITS = ModelTraits(num_blocks=40, id_stride=1, has_ref=True, has_image_guidance=True, flow_shift=3.0)
PHOTO = "0" * 64


class Itself(dict[str, str]):
    """Each text stands for itself, as if the model read every letter."""

    def __missing__(self, text: str) -> str:
        return text


def naming(identity: RenderIdentity = IDENTITY, texts: Mapping[str, str] | None = None) -> Naming:
    return Naming(identity=identity, traits=TRAITS, texts=Itself() if texts is None else texts)


PARAMS = st.fixed_dictionaries(
    {
        "prompt": st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
        "negative_prompt": st.text(st.characters(exclude_categories=["Cs"])),
        "width": st.integers(1, 100).map(lambda n: n * 16),
        "height": st.integers(1, 100).map(lambda n: n * 16),
        "num_frames": st.integers(0, 40).map(lambda n: n * 4 + 1),
        "fps": st.integers(1, 120),
        "num_inference_steps": st.integers(1, 1000),
        "guidance_scale": st.floats(0, 100),
        "guidance_scale_image": st.none() | st.floats(0, 100),
        "ip_scale": st.floats(0, 10),
        "ref_scale": st.floats(0, 10),
        "seed": st.integers(0, MAX_SEED),
        "flow_shift": st.none() | st.floats(0.01, 100),
        "ip_start": st.floats(0, 0.5),
        "ip_end": st.floats(0.5, 1),
        "ip_blocks": st.none() | st.integers(0, 39).map(lambda n: f"{n}-39"),
        "ref_start": st.floats(0, 0.5),
        "ref_end": st.floats(0.5, 1),
        "ref_blocks": st.none() | st.integers(0, 39).map(lambda n: f"0-{n}"),
        "guidance_until": st.floats(0, 1),
        "image_guidance_every": st.integers(1, 1000),
    }
).map(lambda values: RenderParams(**values))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aä微 "),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=10,
)


def clip_id(request: ClipRequest, photo: str = PHOTO, identity: RenderIdentity = IDENTITY) -> str:
    return identify(request, photo_sha256s=[photo], naming=naming(identity)).clip_id


@given(PARAMS, PARAMS)
def test_clips_share_a_name_exactly_if_the_model_renders_them_alike(first: RenderParams, second: RenderParams) -> None:
    forms = [(canonicalize(params, TRAITS, Itself()), params.seed) for params in (first, second)]
    assert (clip_id(make_request(first)) == clip_id(make_request(second))) == (forms[0] == forms[1])


@given(PARAMS, PARAMS, st.sampled_from(fields(RenderParams)))
def test_a_parameter_is_part_of_the_name_exactly_if_it_changes_what_is_computed(
    params: RenderParams, other: RenderParams, field: Field[object]
) -> None:
    changed = replace(params, **{field.name: getattr(other, field.name)})
    forms = [(canonicalize(request, TRAITS, Itself()), request.seed) for request in (params, changed)]
    assert (clip_id(make_request(changed)) == clip_id(make_request(params))) == (forms[0] == forms[1])


def test_texts_are_named_by_what_the_model_reads_of_them() -> None:
    requests = [make_request(RenderParams(prompt=prompt)) for prompt in ("a cafe\u0301", "a caf\u00e9 ", "another")]
    texts = {requests[0].params.prompt: "1", requests[1].params.prompt: "1", "another": "2"}
    texts[requests[0].params.negative_prompt] = "3"
    names = [identify(r, photo_sha256s=[PHOTO], naming=naming(texts=texts)).clip_id for r in requests]
    assert names[0] == names[1] != names[2]


@given(PARAMS, st.integers(0, MAX_SEED))
def test_requests_that_are_rendered_alike_get_the_same_derived_seed(params: RenderParams, seed: int) -> None:
    plain = replace(params, guidance_scale=1.0, negative_prompt="", ip_blocks=None, flow_shift=None)
    other = replace(plain, guidance_scale=0.5, negative_prompt="x", ip_blocks="0-39", flow_shift=3.0, seed=seed)
    clips = [
        identify(make_request(p, is_seed_given=False), photo_sha256s=[PHOTO], naming=naming()) for p in (plain, other)
    ]
    assert clips[0].params.seed == clips[1].params.seed
    assert clips[0].clip_id == clips[1].clip_id


@given(PARAMS)
def test_what_does_not_change_pixels_does_not_change_the_name(params: RenderParams) -> None:
    moved = make_request(
        params,
        row=7,
        subject_uri="s3://elsewhere/b.jpg",
        clip_name="name",
        subject_id="ada",
        priority=9,
        consent_ref="c",
        consent_expires_at=datetime(2030, 1, 1, tzinfo=UTC),
        tags={"campaign": "x"},
    )
    assert clip_id(moved) == clip_id(make_request(params))


def test_photo_and_face_index_are_part_of_the_name() -> None:
    request = make_request(RenderParams(prompt="waves"))
    names = {clip_id(request), clip_id(request, photo="1" * 64), clip_id(replace(request, face_index=0))}
    assert len(names) == 3


def test_every_part_of_the_model_is_part_of_the_name() -> None:
    request = make_request(RenderParams(prompt="waves"))
    changed = [
        replace(IDENTITY, **{field.name: True if field.name == "is_parity" else "other"})
        for field in fields(RenderIdentity)
    ]
    assert len({clip_id(request, identity=identity) for identity in [IDENTITY, *changed]}) == 1 + len(changed)


def test_a_whole_number_names_the_same_clip_with_and_without_a_point() -> None:
    assert RenderParams(prompt="waves", guidance_scale=5) == RenderParams(prompt="waves", guidance_scale=5.0)
    first, second = (make_request(RenderParams(prompt="waves", guidance_scale=scale)) for scale in (5, 5.0))
    assert clip_id(first) == clip_id(second)


@given(PARAMS, st.integers(0, MAX_SEED))
def test_without_a_seed_the_clip_gets_the_one_that_the_rest_of_it_decides(params: RenderParams, other: int) -> None:
    clips = [
        identify(make_request(replace(params, seed=seed), is_seed_given=False), photo_sha256s=[PHOTO], naming=naming())
        for seed in (params.seed, other)
    ]
    assert clips[0] == clips[1]
    explicit = make_request(clips[0].params)
    assert clip_id(explicit) == clips[0].clip_id


def test_without_seeds_different_clips_get_different_seeds() -> None:
    requests = [make_request(RenderParams(prompt=f"waves {n} times"), is_seed_given=False) for n in range(100)]
    seeds = {identify(r, photo_sha256s=[PHOTO], naming=naming()).params.seed for r in requests}
    assert len(seeds) == 100


def test_the_name_of_a_clip_never_changes() -> None:
    """A change of this value orphans every commit that exists: raise CONTRACT_VERSION only if pixels change."""
    name = clip_id(make_request(RenderParams(prompt="一个人微笑", negative_prompt="blurred", seed=7)))
    assert len(name) == CLIP_ID_LENGTH
    assert name == "e1799f505d817578c8f6b0e89a23bd0c"


@given(JSON)
def test_canonical_json_says_the_same_and_has_one_form(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


def test_canonical_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_a_rule_is_told_for_one_field_alone() -> None:
    assert broken_rule("width", 832) is None
    assert "multiple of 16" in str(broken_rule("width", 833))
    assert broken_rule("prompt", " ") == "must not be empty"


def test_every_default_obeys_its_rule() -> None:
    for name, value in asdict(RenderParams(prompt="waves")).items():
        assert broken_rule(name, value) is None


def test_several_photos_make_one_person_in_any_order_and_each_counts_once() -> None:
    params = RenderParams(prompt="a person waves", seed=7)

    def name(*sha256s: str) -> str:
        request = with_photos(make_request(params), *(f"/{place}.jpg" for place in range(len(sha256s))))
        return identify(request, photo_sha256s=sha256s, naming=naming()).clip_id

    first, second = "1" * 64, "2" * 64
    assert name(first, first) == name(first) == clip_id(make_request(params), first)
    assert name(first, second) == name(second, first) == name(second, first, second)
    assert len({name(first), name(second), name(first, second), name(first, second, "3" * 64)}) == 4
    assert name(first, second) == "3267f48ffef1fc6b7ca078ac4799b427"


def test_the_person_of_a_clip_is_the_same_for_all_rows_that_show_them() -> None:
    request = with_photos(make_request(RenderParams(prompt="a person waves")), "/b.jpg", "/a.jpg", "/copy.jpg")
    clip = identify(request, photo_sha256s=["2" * 64, "1" * 64, "2" * 64], naming=naming())
    assert [portrait.subject_uri for portrait in clip.portraits] == ["/b.jpg", "/a.jpg", "/copy.jpg"]
    assert [(portrait.subject_uri, portrait.sha256[0]) for portrait in clip.person] == [
        ("/a.jpg", "1"),
        ("/b.jpg", "2"),
    ]
