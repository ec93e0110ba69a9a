"""The files of `cluster/` say what Ray's launcher and the image builder need, and agree with each other."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from lynx_batch.cli import app
from tests.models import ROOT

CLUSTER = ROOT / "cluster"
LOCK = CLUSTER / "requirements.txt"

CONTAINERFILE = (CLUSTER / "Containerfile").read_text()
RAY_SCHEMA = Path(str(find_spec("ray").origin)).parent / "autoscaler" / "ray-schema.json"


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def test_nobody_is_root_in_the_image() -> None:
    assert re.search(r"^USER ubuntu$", CONTAINERFILE, re.MULTILINE)


def test_the_launcher_file_obeys_rays_own_schema() -> None:
    jsonschema.validate(load("ray-up.yaml"), json.loads(RAY_SCHEMA.read_text()))


def test_the_launcher_starts_spot_workers_beside_a_head_without_work() -> None:
    config = load("ray-up.yaml")
    types = config["available_node_types"]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for kind in workers)
    assert sum(kind["min_workers"] for kind in workers) <= config["max_workers"]


def test_the_launchers_cluster_has_token_authentication_too() -> None:
    config = load("ray-up.yaml")
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_one_image_of_this_version_is_used_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    texts = [CONTAINERFILE, *(file.read_text() for file in CLUSTER.rglob("*.yaml"))]
    images = {image for text in texts for image in re.findall(r"ghcr\.io/\S+", text)}
    assert images == {f"ghcr.io/your-org/lynx-batch:{version}"}
    assert f'image.version="{version}"' in CONTAINERFILE


def test_the_base_image_is_named_by_its_digest() -> None:
    (base,) = re.findall(r"^FROM (\S*/\S+) AS base$", CONTAINERFILE, re.MULTILINE)
    name, digest = base.split("@")
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    assert CONTAINERFILE.count(name) == 3, "also in the command that finds the digest, and in a label"


def test_the_command_for_the_digest_changes_the_base_image_and_nothing_else(tmp_path: Path) -> None:
    (sed,) = re.findall(r"^#   (sed .+) cluster/Containerfile$", CONTAINERFILE, re.MULTILINE)
    changed = tmp_path / "Containerfile"
    changed.write_text(CONTAINERFILE)
    digest = f"sha256:{'1f' * 32}"
    subprocess.run(["sh", "-c", f"digest={digest}; {sed} {changed}"], check=True)
    assert changed.read_text() == re.sub("sha256:[0-9a-f]{64}", digest, CONTAINERFILE)


def test_the_image_holds_the_program_and_no_weights() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]
    assert set(sources) == {
        "cluster/requirements.txt",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "lynx_model",
        "lynx_batch",
    }
    assert all((ROOT / source).exists() for source in sources)
    assert [file for folder in ("lynx_model", "lynx_batch") for file in (ROOT / folder).rglob("*.safetensors")] == []


def test_the_image_installs_nothing_without_a_hash() -> None:
    installs = re.findall(r"pip (?:install|wheel) (.+)$", CONTAINERFILE, re.MULTILINE)
    packages, *project = map(shlex.split, installs)
    assert {"--require-hashes", "--only-binary"} <= set(packages)
    assert packages[-1].lstrip("/") == LOCK.name
    assert all({"--no-deps", "--no-index"} <= set(step) for step in project)


def test_the_health_check_is_a_command_that_the_command_line_knows() -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (\[.+\])$", CONTAINERFILE, re.MULTILINE)
    program, *arguments = json.loads(check)
    assert program == "lynx-batch"
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


@pytest.fixture(scope="module")
def locked() -> dict[str, list[str]]:
    """The requirements of the lock file, and the hashes of each."""
    entries = LOCK.read_text().replace("\\\n", " ").splitlines()
    return {requirement: hashes for requirement, *hashes in map(str.split, entries)}


def test_every_package_of_the_image_has_hashes_and_comes_from_no_named_place(locked: dict[str, list[str]]) -> None:
    for requirement, hashes in locked.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+", requirement)
        assert hashes, requirement
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), requirement


def versions(requirements: Iterable[str]) -> dict[str, str]:
    """What exactly is asked for, by the name of the package."""
    parsed = map(Requirement, requirements)
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in parsed}


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    return versions((ROOT / "constraints.txt").read_text().splitlines())


def test_every_extra_is_pinned(pinned: dict[str, str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in chain(*extras.values()):
        asked = Requirement(text)
        assert asked.specifier.contains(pinned[canonicalize_name(asked.name)], prereleases=True), text


def test_the_image_has_the_versions_of_the_constraints(locked: dict[str, list[str]], pinned: dict[str, str]) -> None:
    assert versions(locked).items() <= pinned.items()


NOT_IN_THE_IMAGE = {"fa2", "fa4"}
"""Kernels for other GPUs, of which an environment takes at most one."""


def test_the_image_has_all_that_the_project_asks_for(locked: dict[str, list[str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [
        asked for extra, asked in project["project"]["optional-dependencies"].items() if extra not in NOT_IN_THE_IMAGE
    ]
    found = versions(locked)
    for text in [*project["build-system"]["requires"], *project["project"]["dependencies"], *chain(*extras)]:
        asked = Requirement(text)
        assert asked.specifier.contains(found[canonicalize_name(asked.name)]), text
