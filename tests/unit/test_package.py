"""What travels with a submitted job, and what is refused before a cluster is asked for anything."""

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from lynx_batch import storage
from lynx_batch.config import RunConfig, load_run_config, parse_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.tombstones import Tombstone, put_tombstone
from lynx_batch.planning.revocation import Kind, key_of
from lynx_batch.preparation.origin import read_origin
from lynx_batch.preparation.package import MAX_PACKAGE_BYTES, Package, pack, refuse_private_paths
from lynx_batch.preparation.prepare import PreparedRun, prepare
from lynx_batch.preparation.selection import Selection
from tests.builders import COLLINS, HOPPER, NOW, SUBJECTS, row, several_photos, tiny_run, write_manifest
from tests.certificates import key_pem, make_chain, make_key
from tests.models import MODEL
from tests.stores import refusing_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the package goes."""
    (tmp_path / "package").mkdir()
    return tmp_path / "package"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of this machine with two photos."""
    (tmp_path / "home" / "photos").mkdir(parents=True)
    for photo in (COLLINS, HOPPER):
        (tmp_path / "home" / "photos" / photo.name).write_bytes(photo.read_bytes())
    return tmp_path / "home"


def run_config(home: Path, face_pack: Path, rows: list[dict[str, object]], **changes: object) -> RunConfig:
    write_manifest(home / "manifest.parquet", rows)
    places = {"manifest": str(home / "manifest.parquet"), "output": "s3://bucket/out"}
    cluster = {"shared_paths": [str(MODEL), str(face_pack)]}
    return parse_run_config(tiny_run(face_pack, **{**places, "cluster": cluster, **changes}), source="test")


def packed_config(package: Package) -> RunConfig:
    return load_run_config(package.folder / package.command[2], {})


def prepared_there(package: Package, selection: Selection) -> PreparedRun:
    """What the job's own `render` prepares."""
    origin = package.folder / package.command[package.command.index("--origin") + 1]
    return prepare(packed_config(package), selection, datetime.now(UTC), read_origin(origin))


def test_a_manifest_and_its_photos_ask_for_the_same_clips_from_the_package(
    home: Path, folder: Path, face_pack: Path
) -> None:
    rows = [row("photos/eileen-collins.jpg", seed=1), row(home / "photos" / "grace-hopper.jpg"), row(HOPPER, "Hi.")]
    config = run_config(home, face_pack, rows)

    package = pack(config, Selection(), folder)

    assert packed_config(package).cluster.address == "auto"
    before, after = prepare(config, Selection(), datetime.now(UTC)), prepared_there(package, Selection())
    assert [clip.clip_id for clip in after.clips] == [clip.clip_id for clip in before.clips]
    assert all(Path(clip.request.photo_uris[0]).is_relative_to(folder) for clip in after.clips)
    assert len(list((folder / "photos").iterdir())) == 2, "a photo travels once"


def test_all_photos_of_a_person_travel(home: Path, folder: Path, face_pack: Path) -> None:
    photos = ["photos/eileen-collins.jpg", str(HOPPER)]
    config = run_config(home, face_pack, [several_photos(*photos)])

    package = pack(config, Selection(), folder)

    (before,) = prepare(config, Selection(), datetime.now(UTC)).clips
    (after,) = prepared_there(package, Selection()).clips
    assert (after.clip_id, after.request.inputs) == (before.clip_id, before.request.inputs)
    assert [portrait.subject_uri for portrait in after.portraits] == [str(home / photos[0]), photos[1]]
    assert all(Path(portrait.uri).is_relative_to(folder) for portrait in after.portraits)


def test_rows_keep_their_numbers_and_only_photos_that_are_used_travel(
    home: Path, folder: Path, face_pack: Path
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    rows = [row("gone.jpg"), row(COLLINS, consent_expires_at=yesterday), row(HOPPER, priority=2)]
    selection = Selection(where="priority == 2 or prompt == 'A person waves.' and subject_uri != 'gone.jpg'")

    package = pack(run_config(home, face_pack, rows), selection, folder)

    assert package.command[5:7] == ["--where", selection.where]
    prepared = prepared_there(package, selection)
    assert [clip.request.row for clip in prepared.clips] == [2]
    assert [(rejection.row, rejection.error_type) for rejection in prepared.rejections] == [(1, "ConsentExpired")]
    assert [photo.suffix for photo in (folder / "photos").iterdir()] == [".jpg"]


def test_what_a_run_keeps_names_manifest_and_photos_as_their_submitter_does(
    home: Path, folder: Path, face_pack: Path
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    rows = [row("photos/grace-hopper.jpg"), row("photos/eileen-collins.jpg", consent_expires_at=yesterday), row(HOPPER)]
    config = run_config(home, face_pack, rows)
    selection = Selection(where="subject_uri in ['photos/grace-hopper.jpg', 'photos/eileen-collins.jpg']")
    package = pack(config, selection, folder)

    assert read_origin(folder / "origin.json").manifest == config.manifest
    here, there = prepare(config, selection, datetime.now(UTC)), prepared_there(package, selection)
    assert there.manifest == here.manifest
    assert [clip.request.inputs for clip in there.clips] == [clip.request.inputs for clip in here.clips]
    assert there.rejections == here.rejections


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}"])
def test_a_file_that_tells_no_origin_is_refused(folder: Path, content: bytes | None) -> None:
    if content is not None:
        (folder / "origin.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"--origin .*origin\.json: must be a file that `lynx-batch submit` wrote"):
        read_origin(folder / "origin.json")


def test_what_the_cluster_has_stays_where_it_is(home: Path, folder: Path, face_pack: Path) -> None:
    shared = {"shared_paths": [str(MODEL), str(face_pack), str(home), str(SUBJECTS)]}
    config = run_config(home, face_pack, [row(COLLINS)], cluster=shared)
    package = pack(config, Selection(limit=3, allow_duplicates=True), folder)
    assert [file.name for file in folder.iterdir()] == ["run.yaml"]
    assert packed_config(package).manifest == config.manifest
    assert package.command[5:] == ["--limit", "3", "--allow-duplicates"]


def test_a_manifest_in_a_store_with_photos_in_a_store_stays_there(
    home: Path, folder: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(home, face_pack, [row("photo.jpg")])
    manifest = "s3://bucket/manifest.parquet"
    with refusing_store(monkeypatch):
        storage.upload(home / "manifest.parquet", manifest)
        package = pack(config.model_copy(update={"manifest": manifest}), Selection(), folder)
    assert packed_config(package).manifest == manifest


def test_the_job_tells_its_run_and_the_hash_of_its_manifest(home: Path, folder: Path, face_pack: Path) -> None:
    package = pack(run_config(home, face_pack, [row(COLLINS)]), Selection(), folder)
    assert package.command[:5] == ["lynx-batch", "render", "run.yaml", "--run-id", package.run_id]
    assert package.metadata["run_id"] == package.run_id
    manifest = (home / "manifest.parquet").read_bytes()
    assert package.metadata["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()


def test_what_render_was_asked_for_is_asked_for_there(home: Path, folder: Path, face_pack: Path) -> None:
    config = run_config(home, face_pack, [row(COLLINS)])
    package = pack(config, Selection(where="row < 3", limit=2), folder, is_unsafe_allowed=True)
    assert package.command[5:] == ["--where", "row < 3", "--limit", "2", "--unsafe-commit", "--origin", "origin.json"]


def test_every_path_that_the_cluster_may_not_have_is_named(home: Path, folder: Path, face_pack: Path) -> None:
    changes = {
        "output": "/mine/out",
        "model": {"base": "/mine/base", "adapters": {"id": "s3://b/lite", "ref": "/mine/full"}},
    }
    config = run_config(home, face_pack, [row(COLLINS)], cluster={"shared_paths": ["/min"]}, **changes)
    with pytest.raises(ConfigError) as caught:
        pack(config, Selection(), folder)
    named = [line.split("=")[0].strip() for line in str(caught.value).splitlines()[1:]]
    assert named == ["output", "model.base", "model.adapters.ref", "faces.pack"]
    assert "cluster.shared_paths" in str(caught.value)


def test_a_signing_key_never_travels(
    home: Path, folder: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key("es256")
    chain, pem = b"".join(make_chain(key)), key_pem(key)
    (home / "chain.pem").write_bytes(chain)
    (home / "key.pem").write_bytes(pem)
    c2pa = {"certificates": str(home / "chain.pem"), "private_key": str(home / "key.pem")}
    marks = {"marking": "required", "c2pa": c2pa}
    with pytest.raises(ConfigError, match=r"provenance\.c2pa\.private_key=.*the cluster may not have it"):
        pack(run_config(home, face_pack, [row(COLLINS)], provenance=marks), Selection(), folder)

    monkeypatch.setenv("SIGNING_KEY", pem.decode())
    marks["c2pa"] = {
        "certificates": "env:SIGNING_CHAIN",
        "private_key": "env:SIGNING_KEY",
    }  # only the cluster has the chain
    package = pack(run_config(home, face_pack, [row(COLLINS)], provenance=marks), Selection(), folder)
    assert packed_config(package).provenance.c2pa.private_key == "env:SIGNING_KEY"
    lines = [line for line in pem.splitlines() if b"PRIVATE" not in line]
    assert not any(line in file.read_bytes() for file in folder.rglob("*") if file.is_file() for line in lines)


def test_a_run_on_several_machines_takes_photos_of_shared_folders_only(home: Path, face_pack: Path) -> None:
    shared = {"shared_paths": [str(MODEL), str(face_pack), str(SUBJECTS)]}
    config = run_config(home, face_pack, [row(COLLINS)], cluster=shared)
    refuse_private_paths(config, [str(COLLINS), "s3://bucket/a.jpg"])
    with pytest.raises(ConfigError, match=r"subject_uri='/mine/0\.jpg'(.|\n)*and 10 more"):
        refuse_private_paths(config, [f"/mine/{number}.jpg" for number in range(30)])


def test_every_bad_row_is_named(home: Path, folder: Path, face_pack: Path) -> None:
    config = run_config(home, face_pack, [row("gone.jpg"), row(COLLINS, " "), row(HOPPER), row(HOPPER)])
    with pytest.raises(ConfigError) as caught:
        pack(config, Selection(), folder)
    for fault in ("row 0: subject_uri=", "row 1: prompt=' '", "row 3: subject_uri="):
        assert fault in str(caught.value)
    allowing = Selection(allow_invalid=True, allow_duplicates=True)
    rejected = prepared_there(pack(config, allowing, folder), allowing).rejections
    assert [rejection.row for rejection in rejected] == [1, 0]


def test_rows_of_revoked_people_consents_and_photos_are_named_before_the_job_is_submitted(
    home: Path, folder: Path, face_pack: Path
) -> None:
    shared = home / "shared"
    cluster = {"shared_paths": [str(MODEL), str(face_pack), str(shared)]}
    rows = [row(COLLINS, subject_id="ada"), row(COLLINS, seed=1), row(HOPPER), row(HOPPER, seed=2, consent_ref="C-1")]
    config = run_config(home, face_pack, rows, output=str(shared), cluster=cluster)
    photo = hashlib.sha256(HOPPER.read_bytes()).hexdigest()
    for kind, value in ((Kind.SUBJECT_ID, "ada"), (Kind.CONSENT_REF, "C-1"), (Kind.PHOTO_SHA256, photo)):
        key = key_of(kind, value)
        put_tombstone(str(shared), Tombstone(kind=key.kind, digest=key.digest, revoked_at=NOW, revoked_by="Bob"))

    found = pack(config, Selection(), folder).rejections

    assert [(each.row, each.error) for each in found] == [
        (0, "subject_id: revoked"),
        (3, "consent_ref: revoked"),
        (2, "photo_sha256: revoked"),
    ]
    assert len(list((folder / "photos").iterdir())) == 1


def test_photos_that_are_too_many_to_travel_are_refused(home: Path, folder: Path, face_pack: Path) -> None:
    rows = [row(f"{name}.bmp") for name in ("first", "second")]
    for name in ("first", "second"):
        Image.new("RGB", (4000, 4000), {"first": "red", "second": "blue"}[name]).save(home / f"{name}.bmp")
    assert 2 * (home / "first.bmp").stat().st_size > MAX_PACKAGE_BYTES
    with pytest.raises(ConfigError, match="with 2 photos of this machine it has 92 MiB"):
        pack(run_config(home, face_pack, rows), Selection(), folder)


def test_only_what_is_a_photo_travels(home: Path, folder: Path, face_pack: Path) -> None:
    (home / "notes.jpg").write_text("user:password", encoding="utf-8")
    os.mkfifo(home / "pipe.jpg")
    (home / "link.jpg").symlink_to("/etc/passwd")
    names = [
        "/etc/passwd",
        "notes.jpg",
        "pipe.jpg",
        "link.jpg",
        "/dev/zero",
        str(home),
        "photos",
        "local:///etc/passwd",
    ]
    rows = [row(name, str(number)) for number, name in enumerate([*names, COLLINS])]
    config = run_config(home, face_pack, rows)
    with pytest.raises(ConfigError) as caught:
        pack(config, Selection(), folder)
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        f"row {number}" for number in (7, *range(7))
    ]
    package = pack(config, Selection(allow_invalid=True), folder)
    assert [file.read_bytes() for file in (package.folder / "photos").iterdir()] == [COLLINS.read_bytes()]


def test_photos_of_a_narrow_place_are_allowed_where_they_travel_to(home: Path, folder: Path, face_pack: Path) -> None:
    config = run_config(home, face_pack, [row("photos/eileen-collins.jpg")], inputs={"allow": [str(home / "photos")]})
    package = pack(config, Selection(), folder)
    assert len(prepared_there(package, Selection()).clips) == 1
    with pytest.raises(ConfigError, match=r"must be in or below one of the places in inputs\.allow"):
        pack(run_config(home, face_pack, [row(HOPPER)], inputs={"allow": [str(home)]}), Selection(), folder)


def test_an_approval_is_left_to_the_cluster_if_a_file_that_was_approved_is_not_here(
    home: Path, folder: Path, face_pack: Path
) -> None:
    sections = {"approval": {"required": True}, "cluster": {"shared_paths": ["/shared", str(face_pack), str(MODEL)]}}
    label = {"marking": "try", "label": {"logo": "/shared/logo.png"}}
    there = run_config(home, face_pack, [row(COLLINS)], provenance=label, **sections)
    assert packed_config(pack(there, Selection(), folder)).provenance.label == there.provenance.label
    with pytest.raises(ConfigError, match=r"approval\.required: nobody has approved anything yet"):
        pack(run_config(home, face_pack, [row(COLLINS)], **sections), Selection(), folder)


def test_a_model_that_is_not_here_is_left_to_the_cluster(home: Path, folder: Path, face_pack: Path) -> None:
    model = {"base": "/models/base", "adapters": "/models/full"}
    config = run_config(
        home, face_pack, [row(COLLINS)], model=model, cluster={"shared_paths": ["/models", str(face_pack)]}
    )
    assert packed_config(pack(config, Selection(), folder)).model == config.model
