"""`export`: which rendered clips are handed out, under which names, and what it leaves alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.cli.export_writing import TABLE_NAME
from lynx_batch.cli.tables import TableKind
from lynx_batch.clip import ClipRequest
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.commits import Withdrawal, withdraw
from lynx_batch.ledger.copies import copy_clips
from lynx_batch.ledger.export import name_clips
from lynx_batch.ledger.export_list import LIST_NAME
from lynx_batch.ledger.export_names import RESERVED
from lynx_batch.ledger.metadata import Outcome, RowOutcome
from tests.builders import NOW, ended, make_clip, record
from tests.exports import PHOTO, TOMORROW, YESTERDAY, Place, ask, publish, rejected, rendered, spec


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "out"))


@pytest.fixture
def team(place: Place) -> Place:
    """Two clips of ada and one of bob, and a row that was rejected."""
    rows = [
        rendered("aa11", 0, subject_id="ada", clip_name="wave"),
        rendered("bb22", 1, subject_id="ada", clip_name="smile", prompt="She smiles."),
        rendered("cc33", 2, subject_id="bob", clip_name="wave", priority=3, subject_uri="bob.jpg"),
        rejected("MissingObject", ask(3, subject_uri="gone.jpg")),
    ]
    place.run("run-1", rows)
    return place


# Names


def test_clips_get_names_from_their_metadata(team: Place, tmp_path: Path) -> None:
    template = "{subject_id}/{clip_name}-{row:03}.mp4"
    for _ in range(2):
        assert team.export(tmp_path / "named", template).exit_code == 0
    named = {str(p.relative_to(tmp_path / "named")): p.read_text() for p in (tmp_path / "named").rglob("*.mp4")}
    assert named == {"ada/wave-000.mp4": "aa11 1", "ada/smile-001.mp4": "bb22 1", "bob/wave-002.mp4": "cc33 1"}


def test_clips_are_named_by_their_tags(place: Place) -> None:
    tags = {"city": "Köln", "any key": "7", "1": "x"}
    place.run("run-1", [rendered("aa11", 0, tags=tags), rendered("bb22", 1, tags={"city": "Oslo"})])
    assert {*name_clips(place.output, "{tags.city:>5}.mp4", NOW).clips} == {" Köln.mp4", " Oslo.mp4"}
    template = "{tags[any key]}{tags[1]}.mp4"
    with pytest.raises(ConfigError, match=r"row 1 of run run-1: tags.any key must not be null"):
        name_clips(place.output, template, NOW)
    for template in ("{tags}.mp4", "{tags.__class__}.mp4", "{tags.city.x}.mp4", "{tags[a][b]}.mp4"):
        with pytest.raises(ConfigError, match="must be a column"):
            name_clips(place.output, template, NOW)


def test_a_tag_that_no_row_has_is_told_once_with_the_nearest(place: Place, tmp_path: Path) -> None:
    place.run("run-1", [rendered(f"{row:04}", row, tags={"city": "Oslo"}) for row in range(40)])
    refused = place.export(tmp_path / "named", "{tags.ctiy}-{row}.mp4")
    assert refused.exit_code == 2
    told = "error: --name '{tags.ctiy}-{row}.mp4': no row has the tag 'ctiy'; the nearest is 'city'"
    assert " ".join(refused.stderr.split()) == told


def test_a_tag_of_an_output_without_any_tag_is_told_once(place: Place) -> None:
    place.run("run-1", [rendered(f"{row:04}", row, tags={}) for row in range(3)])
    with pytest.raises(ConfigError, match=r"no row has the tag 'city'; none has any tag$"):
        place.names("{tags.city}-{row}")


def test_a_rule_that_many_rows_break_is_told_once(place: Place) -> None:
    whole = [rendered(f"{row:04}", row, tags={"city": "Oslo"} if row == 7 else {}) for row in range(40)]
    place.run("run-1", whole)
    with pytest.raises(ConfigError) as refused:
        place.names("{tags.city}-{row}")
    told = "row 0 of run run-1: tags.city must not be null (and so in 38 more rows)"
    assert str(refused.value).splitlines()[1:] == [f"  {told}"]


def test_clips_are_copied_to_another_store(team: Place) -> None:
    naming = name_clips(team.output, "{clip_id}.mp4", NOW)
    for _ in range(2):
        assert copy_clips(team.output, naming.clips, "memory://named") == {}
    assert storage.read_bytes("memory://named/aa11.mp4") == b"aa11 1"


def test_an_edit_of_an_exported_file_leaves_the_committed_one_as_it_is(team: Place, tmp_path: Path) -> None:
    team.export(tmp_path / "named", "{clip_id}.mp4")
    with (tmp_path / "named" / "aa11.mp4").open("r+b") as file:
        file.write(b"edited")
    assert Path(team.output, record("aa11").clip_uri).read_bytes() == b"aa11 1"


def test_the_newest_run_decides_the_names_of_a_clip(team: Place) -> None:
    again = [rendered("aa11", 7, clip_name="first"), rendered("aa11", 8, clip_name="second")]
    team.run("alpha", again, is_whole=False)
    assert sorted(team.names("{clip_id}-{row}")) == ["aa11-7", "aa11-8", "bb22-1", "cc33-2"]


def test_the_newest_run_is_the_one_that_started_last(place: Place) -> None:
    place.run("pilot", [rendered("aa11", clip_name="old")])
    place.run("20261121T080000Z-abc", [rendered("aa11", clip_name="new")])
    assert place.names() == {"new": "aa11"}


@pytest.mark.parametrize("manifests", [("/a.parquet", "/a.parquet"), (None, "/a.parquet"), (None, None)])
def test_a_clip_made_anew_takes_its_name_from_the_old_one(
    place: Place, manifests: tuple[str | None, str | None]
) -> None:
    for run_id, clip_id, manifest in zip(("zulu", "alpha"), ("aa11", "bb22"), manifests, strict=True):
        place.run(run_id, [rendered(clip_id, clip_name="wave")], manifest=manifest)
    assert place.names() == {"wave": "bb22"}


def test_one_name_in_two_manifests_is_told_and_nothing_is_hidden(place: Place, tmp_path: Path) -> None:
    place.run("run-1", [rendered("aa11", clip_name="wave")], manifest="/a.parquet")
    place.run("run-2", [rendered("bb22", clip_name="wave")], manifest="/b.parquet")
    told = r"row 0 of run run-1: 'wave' must not also be the name of row 0 of run run-2, which is of another manifest"
    with pytest.raises(ConfigError, match=told):
        place.names()
    assert place.names("{rendered_by_run}-{clip_id}") == {"run-aa11": "aa11", "run-bb22": "bb22"}


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{clip_name}.mp4", r"row 2 of run run-1: 'wave\.mp4' must not also be the name of row 0"),
        ("{consent_ref}.mp4", "row 0 of run run-1: consent_ref must not be null"),
        ("{clipname}.mp4", r"'clipname' must be a column of the metadata \(the nearest is 'clip_name'\)"),
        ("{clip_name.__class__}", "must be a column"),
        ("{}.mp4", "must be a column"),
        ("{clip_id:{prompt}}", "the format of 'clip_id' must not contain braces"),
        ("{row:99999999999}", "the format of 'row' must not contain a number above 999"),
        ("{seed:c}", "row 0 of run run-1: "),
        ("{row", "expected '}'"),
        ("{clip_name:d}", "row 0 of run run-1: Unknown format code 'd'"),
        ("../{clip_id}.mp4", "must be a relative path"),
        ("/{clip_id}.mp4", "must be a relative path"),
        ("{subject_id}//{clip_id}", "must be a relative path"),
        ("{clip_id}\\x", "must not hold control characters or backslashes"),
        ("{clip_id}\u2028x", "must not hold control characters or backslashes"),
        (
            "Export.json/{clip_id}.mp4",
            r"row 0 of run run-1: '.*' must not begin with 'Export\.json', which `export` itself",
        ),
        ("clips.xlsx/{clip_id}.mp4", r"row 0 of run run-1: '.*' must not begin with 'clips\.xlsx'"),
        ("a/{clip_id:>252}.mp4", "row 0 of run run-1: .* at most 255 bytes between slashes, but .* has 256"),
    ],
)
def test_a_name_that_cannot_be_is_told_with_its_row_and_rule(team: Place, template: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        team.names(template)


def test_a_name_is_too_long_by_its_bytes_and_nothing_is_copied_then(place: Place, tmp_path: Path) -> None:
    fits, long = "é" * 125 + "x", "é" * 126
    place.run("run", [rendered("aa11", clip_name=fits), rendered("bb22", 1, clip_name=long, prompt="Smile.")])
    refused = place.export(tmp_path / "named")
    assert (refused.exit_code, f"row 1 of run run: '{long}.mp4' must have at most 255 bytes" in refused.stderr) == (
        2,
        True,
    )
    assert not (tmp_path / "named").exists()
    assert place.export(tmp_path / "named", "{clip_name}.mp4", "--where", "row == 0").exit_code == 0
    assert (tmp_path / "named" / f"{fits}.mp4").read_text() == "aa11 1"


def test_the_list_and_the_tables_of_an_export_have_their_names_for_themselves() -> None:
    assert {LIST_NAME, *(f"{TABLE_NAME}.{kind}" for kind in TableKind)} == RESERVED


def test_a_cell_does_not_lead_out_of_the_destination(team: Place) -> None:
    team.run("run-2", [rendered("aa11", 0, clip_name="../../etc/passwd")])
    with pytest.raises(ConfigError, match=r"row 0 of run run-2: '.*passwdaa11' must be a relative path"):
        team.names("x/{clip_name}{clip_id}")


def test_a_clip_cannot_be_the_folder_of_another(place: Place) -> None:
    place.run("run", [rendered("dd44", 0, clip_name="a"), rendered("ee55", 1, clip_name="a/b")])
    with pytest.raises(ConfigError, match="'a' must not be both a clip and the folder of 'a/b'"):
        place.names()


@pytest.mark.parametrize(
    ("first", "second"),
    [("Ada", "ada"), ("ÉVA", "éva"), ("\u00e9va", "e\u0301va"), ("Strauß", "STRAUSS"), ("team/Ada", "Team/ada")],
)
def test_names_that_are_one_file_on_some_disks_are_refused(place: Place, first: str, second: str) -> None:
    place.run("run", [rendered("dd44", 0, subject_id=first), rendered("ee55", 1, subject_id=second)])
    told = (
        f"row 1 of run run: {second!r} must not be the same file as {first!r} of row 0 of run run on disks that ignore"
    )
    with pytest.raises(ConfigError) as refused:
        place.names("{subject_id}")
    assert told in str(refused.value)
    assert place.names("{subject_id}-{row}") == {f"{first}-0": "dd44", f"{second}-1": "ee55"}


def test_names_that_are_one_file_on_some_disks_may_be_of_one_clip_or_of_two_exports(place: Place) -> None:
    place.run("run", [rendered("dd44", 0, clip_name="Ada"), rendered("dd44", 1, clip_name="ada")])
    assert place.names() == {"Ada": "dd44", "ada": "dd44"}
    place.run("other", [rendered("ee55", clip_name="ADA")], manifest="/b.parquet")
    assert [*name_clips(place.output, "{clip_name}", NOW, {"ee55"}).clips] == ["ADA"]


def test_a_clip_cannot_be_the_folder_of_another_in_other_letters(place: Place) -> None:
    place.run("run", [rendered("dd44", 0, clip_name="A"), rendered("ee55", 1, clip_name="a/b")])
    with pytest.raises(ConfigError, match="'A' must not be both a clip and the folder of 'a/b'"):
        place.names()


# Consent


def test_a_clip_whose_newest_row_has_no_consent_any_more_is_withheld_and_gives_no_older_one_its_name(
    place: Place, tmp_path: Path
) -> None:
    place.run("run-1", [rendered("aa11", clip_name="wave", prompt="Hi.")], is_whole=False)
    place.run("run-2", [rendered("bb22", clip_name="wave")], is_whole=False)
    assert place.names() == {"wave": "bb22"}
    place.run("run-3", [rejected("ConsentExpired", ask(clip_name="wave", is_seed_given=False))], is_whole=False)
    assert place.names() == {}
    result = place.export(tmp_path / "named")
    assert (
        result.exit_code,
        "\n  clip bb22: row 0 of run run-3: ConsentExpired: why\n" in result.stdout,
    ) == (0, True)


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("{home}/ada.jpg", "file://{home}/ada.jpg"),
        ("file://{home}/ada.jpg", "{home}/./ada.jpg"),
        ("{home}/ada.jpg", "{home}/link/ada.jpg"),
        ("s3://b/ada.jpg", "s3a://b/ada.jpg"),
        ("gcs://b/ada.jpg?version=1", "gs://b/ada.jpg"),
    ],
)
def test_a_consent_that_ended_counts_however_the_photos_place_is_written(
    place: Place, tmp_path: Path, then: str, now: str
) -> None:
    (tmp_path / "ada.jpg").write_bytes(b"ada")
    (tmp_path / "link").symlink_to(tmp_path)
    place.run("run-1", [rendered("aa11", clip_name="wave", subject_uri=then.format(home=tmp_path))])
    place.run("run-2", [rejected("ConsentExpired", ask(subject_uri=now.format(home=tmp_path)))], manifest="/b.parquet")
    assert place.withheld().keys() == {"aa11"}


def test_an_output_whose_run_was_killed_before_its_first_metadata_can_be_exported(place: Place, tmp_path: Path) -> None:
    place.run("killed", [], took=[ask()])
    publish(place.output, "aa11")
    told = place.export(tmp_path / "named")
    assert (told.exit_code, "0 clips" in told.stdout, "1 more clip committed" in told.stdout) == (0, True, True)


@pytest.mark.parametrize("below", ["", "clips", "clips/aa", "new"])
def test_nothing_is_exported_into_the_output_itself(team: Place, below: str) -> None:
    told = team.export(Path(team.output, below))
    assert (told.exit_code, "must not be inside OUT" in told.stderr) == (2, True)


def test_a_row_that_lost_its_consent_together_with_its_prompt_gives_no_older_clip_its_name(place: Place) -> None:
    place.run("run-1", [rendered("aa11", clip_name="wave"), rendered("bb22", 1, clip_name="smile")])
    place.run("run-2", [rejected("ConsentExpired", ask(clip_name="wave", prompt="Other."))], is_whole=False)
    assert place.names() == {"smile": "bb22"}


@pytest.mark.parametrize(
    ("request_", "is_withheld"),
    [
        (ask(), True),
        (ask(seed=1), True),
        (ask(seed=2), False),
        (ask(seed=2, is_seed_given=False), True),
        (ask(subject_uri=f"{PHOTO}?signature=2"), True),
        (ask(subject_uri="https://host/bob.jpg"), False),
        (ask(subject_uris=[PHOTO, "https://host/bob.jpg"]), False),
        (ask(face_index=0), False),
        (ask(prompt="Hi."), False),
    ],
)
def test_a_row_without_a_clip_id_withholds_what_it_asks_for(
    place: Place, request_: ClipRequest, is_withheld: bool
) -> None:
    place.run("run-1", [rendered("aa11", subject_uri=f"{PHOTO}?signature=1")], is_whole=False)
    place.run("run-2", [rejected("ConsentExpired", request_)], is_whole=False)
    assert ("aa11" in place.withheld()) == is_withheld
    assert place.names("{clip_id}") == ({} if is_withheld else {"aa11": "aa11"})


@pytest.mark.parametrize("error_type", ["MissingObject", "InvalidRow", "NoFaceFound", "UnreadableImage"])
def test_no_other_rejection_withholds_a_clip(place: Place, error_type: str) -> None:
    place.run("run-1", [rendered("aa11", clip_name="wave")])
    place.run("run-2", [rejected(error_type, ask(clip_name="wave"))], took=[ask()])
    assert place.names() == {"wave": "aa11"}


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ABANDONED, Outcome.REJECTED])
def test_what_another_run_made_of_a_committed_clip_does_not_matter(place: Place, outcome: Outcome) -> None:
    place.run("run-1", [rendered("aa11", clip_name="old")])
    place.run("run-2", [ended(outcome, spec("aa11", clip_name="wave"))])
    assert place.names("{clip_name}-{group_size}") == {"wave-1": "aa11"}


def test_a_consent_that_ended_in_mid_run_withholds_the_clip_until_it_is_renewed(place: Place) -> None:
    place.run("run-1", [rendered("aa11")])
    place.run("run-2", [replace(ended(Outcome.REJECTED, spec("aa11")), error_type="ConsentExpired")])
    assert list(place.withheld()) == ["aa11"]
    place.run("run-3", [rejected("MissingObject", ask(consent_expires_at=TOMORROW))], took=[ask()])
    assert place.withheld() == {}


@pytest.mark.parametrize(("expires_at", "is_withheld"), [(YESTERDAY, True), (NOW, True), (TOMORROW, False)])
def test_a_consent_that_has_expired_since_the_run_withholds_the_clip(
    place: Place, expires_at: object, is_withheld: bool
) -> None:
    place.run("run-1", [rendered("aa11", consent_expires_at=expires_at)])
    assert ("aa11" in place.withheld()) == is_withheld


@pytest.mark.parametrize("error_type", ["ConsentExpired", "StoreUnavailable"])
def test_a_consent_that_ended_for_another_models_clip_ended_for_this_one(place: Place, error_type: str) -> None:
    place.run("run-1", [rendered("aa11", clip_name="wave")])
    expires_at = YESTERDAY if error_type == "StoreUnavailable" else None
    other = spec("bb22", clip_name="wave", seed=7, consent_expires_at=expires_at)
    place.run("run-2", [replace(ended(Outcome.REJECTED, other), error_type=error_type)])
    assert list(place.withheld()) == ["aa11"]
    assert place.names() == {}
    place.run("run-3", [rendered("aa11", clip_name="wave")])
    assert place.names() == {"wave": "aa11"}


def test_an_expired_row_says_nothing_of_another_seed_that_its_run_names(place: Place) -> None:
    rows = [rendered("aa11", seed=1), rendered("bb22", 1, seed=2, consent_expires_at=YESTERDAY)]
    place.run("run-1", rows)
    assert place.names("{clip_id}") == {"aa11": "aa11"}


# Removed rows


def test_a_clip_whose_row_was_removed_is_withheld(team: Place, tmp_path: Path) -> None:
    team.run("run-2", [rendered("aa11", clip_name="wave")])
    assert team.names("{clip_id}") == {"aa11": "aa11"}
    assert team.withheld() == {
        "bb22": "row 1 of run run-1: its manifest no longer had it in run run-2",
        "cc33": "row 2 of run run-1: its manifest no longer had it in run run-2",
    }


def test_runs_over_a_part_of_the_manifest_or_another_one_remove_nothing(team: Place) -> None:
    team.run("run-2", [rendered("aa11", clip_name="wave")], is_whole=False)
    team.run("run-3", [rendered("dd44", 0, clip_name="jump", prompt="Jump.")], manifest="/b.parquet")
    team.run("run-4", [rendered("ee55", 0, clip_name="sit", prompt="Sit.")], manifest=None)
    assert set(team.names("{clip_id}")) == {"aa11", "bb22", "cc33", "dd44", "ee55"}


def test_a_removed_clip_that_another_manifest_asks_for_has_its_name_there(place: Place) -> None:
    place.run("run-1", [rendered("aa11", clip_name="ours"), rendered("bb22", 1, clip_name="kept", prompt="Hi.")])
    place.run("run-2", [rendered("aa11", clip_name="theirs")], manifest="/b.parquet")
    assert set(place.names()) == {"ours", "theirs", "kept"}
    place.run("run-3", [rendered("bb22", 1, clip_name="kept", prompt="Hi.")])
    assert set(place.names()) == {"theirs", "kept"}


def test_a_row_that_a_killed_run_or_a_new_model_has_no_clip_of_yet_is_not_removed(place: Place) -> None:
    place.run("run-1", [rendered("aa11", clip_name="wave"), rendered("bb22", 1, prompt="Hi.", clip_name="smile")])
    place.run("run-2", [], took=[ask(5)])
    assert place.names() == {"wave": "aa11"}


def test_links_that_differ_in_their_query_alone_are_told_apart_by_their_photos(place: Place) -> None:
    links = [f"https://host/photo?id={name}" for name in ("ada", "bob")]
    photos = ["a" * 64, "b" * 64]

    def row(number: int) -> RowOutcome:
        of = rendered(("aa11", "bb22")[number], number, subject_uri=links[number])
        assert of.clip is not None
        return replace(of, clip=make_clip(of.clip.clip_id, of.clip.request, photo_sha256=photos[number]))

    place.run("run-1", [row(0), row(1)])
    place.run("run-2", [row(1)])
    assert place.names("{clip_id}") == {"bb22": "bb22"}


def test_a_row_with_several_photos_asks_for_its_clip_in_any_order_of_them(place: Place) -> None:
    photos = [PHOTO, "https://host/ada-2.jpg"]
    made = [rendered("aa11", subject_uris=photos), rendered("bb22", 1, prompt="Hi.")]
    place.run("run-1", made, is_whole=False)
    place.run("run-2", [rejected("ConsentExpired", ask(subject_uris=photos[::-1]))], is_whole=False)
    assert {*place.withheld()} == {"aa11"}
    place.run("run-3", [made[1]], took=[ask(subject_uris=photos[::-1]), ask(1, prompt="Hi.")])
    assert {*place.withheld()} == {"aa11"}
    assert "consent" in place.withheld()["aa11"].lower(), "not that its manifest no longer had it"


# Commits and videos that are not there


def test_the_edition_in_force_is_handed_out(team: Place, tmp_path: Path) -> None:
    team.export(tmp_path / "named", "{clip_id}.mp4")
    publish(team.output, "aa11", edition=2)
    assert team.export(tmp_path / "named", "{clip_id}.mp4").exit_code == 0
    assert (tmp_path / "named" / "aa11.mp4").read_text() == "aa11 2"


def test_a_withdrawn_clip_is_named_and_gives_no_older_one_its_name(place: Place, tmp_path: Path) -> None:
    place.run("run-1", [rendered("aa11", clip_name="wave", prompt="Hi.")], is_whole=False)
    place.run("run-2", [rendered("bb22", clip_name="wave"), rendered("cc33", 1, clip_name="smile")], is_whole=False)
    reason = Withdrawal(clip_id="bb22", edition=1, reason="", withdrawn_at=NOW, command="verify --repair")
    withdraw(place.output, reason)
    result = place.export(tmp_path / "named")
    assert result.exit_code == 3
    assert "1 clip left out" in result.stdout
    assert "  wave.mp4: the commit of clip bb22 is withdrawn" in result.stdout
    assert [file.name for file in (tmp_path / "named").glob("*.mp4")] == ["smile.mp4"]


def damage(file: Path) -> None:
    file.write_bytes(b"?" * file.stat().st_size)


@pytest.mark.parametrize(
    "harm", [Path.unlink, damage, lambda file: file.write_bytes(b"")], ids=["gone", "damaged", "cut"]
)
def test_a_video_that_is_not_as_it_was_committed_is_named_and_the_rest_goes_on(
    team: Place, tmp_path: Path, harm: object
) -> None:
    harm(Path(team.output, record("aa11").clip_uri))
    result = team.export(tmp_path / "named", "{clip_id}.mp4")
    assert (result.exit_code, "2 clips" in result.stdout, "1 clip left out" in result.stdout) == (3, True, True)
    assert f"  aa11.mp4: {team.output}/clips/aa/aa11/run-1.mp4: " in result.stdout
    assert {file.name for file in (tmp_path / "named").glob("*.mp4")} == {"bb22.mp4", "cc33.mp4"}


def test_a_damaged_commit_is_named_and_the_rest_goes_on(place: Place, tmp_path: Path) -> None:
    place.run("run-1", [rendered("aa11", clip_name="wave"), ended(Outcome.ABANDONED, spec("bb22", 1, clip_name="sit"))])
    storage.write_bytes(f"{place.output}/commits/bb/bb22.json", b"{}")
    result = place.export(tmp_path / "named")
    assert result.exit_code == 3
    assert "sit.mp4: " in result.stdout
    assert "bb22.json: cannot be read as a commit" in result.stdout


# What lies at the destination


def content(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.name, file.read_bytes()


@pytest.mark.parametrize("own", [b"my own", b"aa11 0", b""])
def test_somebodys_own_file_is_never_replaced(team: Place, tmp_path: Path, own: bytes) -> None:
    named = tmp_path / "named"
    named.mkdir()
    (named / "bb22.mp4").write_bytes(own)
    result = team.export(named, "{clip_id}.mp4")
    assert result.exit_code == 2
    assert f"DEST {named}: nothing was exported" in result.stderr
    assert f"  bb22.mp4: must be free, or a clip of {team.output}" in result.stderr
    assert list(content(named)) == [("bb22.mp4", own)]


def test_somebodys_own_object_in_a_bucket_is_never_replaced(team: Place) -> None:
    storage.write_bytes("memory://theirs/bb22.mp4", b"my own")
    naming = name_clips(team.output, "{clip_id}.mp4", NOW)
    with pytest.raises(ConfigError, match=r"bb22\.mp4: must be free"):
        copy_clips(team.output, naming.clips, "memory://theirs")
    assert storage.stat("memory://theirs/aa11.mp4") is None


def test_an_exported_file_that_was_edited_is_somebodys_own(team: Place, tmp_path: Path) -> None:
    team.export(tmp_path / "named", "{clip_id}.mp4")
    (tmp_path / "named" / "aa11.mp4").write_bytes(b"graded")
    assert team.export(tmp_path / "named", "{clip_id}.mp4").exit_code == 2
    assert (tmp_path / "named" / "aa11.mp4").read_bytes() == b"graded"


def test_a_file_in_place_of_a_folder_and_a_folder_in_place_of_a_file_are_told(team: Place, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.write_bytes(b"my own")
    refused = team.export(named, "{clip_id}.mp4")
    assert (refused.exit_code, f"DEST {named}: must be a folder, but is a file" in refused.stderr) == (2, True)
    named.unlink()
    named.mkdir()
    (named / "bob").write_bytes(b"my own")
    (named / "ada" / "wave.mp4").mkdir(parents=True)
    (named / "ada" / "smile.mp4").symlink_to(tmp_path / "nowhere")
    refused = team.export(named, "{subject_id}/{clip_name}.mp4")
    assert refused.exit_code == 2
    for name in ("ada/wave.mp4", "ada/smile.mp4", "bob/wave.mp4"):
        assert f"  {name}: must be free" in refused.stderr
    assert list(content(named)) == [("bob", b"my own")]
