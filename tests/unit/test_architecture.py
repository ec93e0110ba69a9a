"""The pages about the architecture name files, tests and layers that exist, and leave no module out."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("lynx_batch", "lynx_model")
PAGES = [ROOT / package / page for package in PACKAGES for page in ("README.md", "DECISIONS.md", "MEASURED.md")]


def quoted(page: Path) -> Iterator[str]:
    """Everything in single backquotes."""
    return (text for text in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")))


def is_file(page: Path, name: str) -> bool:
    folders = (
        ROOT,
        page.parent,
        ROOT / "tests/unit",
        ROOT / "tests/integration",
        ROOT / "tests/chaos",
        ROOT / "tests/gpu",
    )
    return any((folder / name).is_file() for folder in folders) or any(page.parent.glob(f"*/{name}"))


def contracts() -> list[dict[str, Any]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def modules_of(package: str) -> set[str]:
    """The modules and rooms at the top of a package, except its entry points."""
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}
    return {f"{package}.{name}" for name in rooms | modules}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_module_that_is_named_exists(page: Path) -> None:
    names = {text for text in quoted(page) if re.fullmatch(r"[\w/]+\.py", text)}
    assert [name for name in sorted(names) if not is_file(page, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_test_that_shows_an_invariant_exists(package: str) -> None:
    named = [text.split("::") for text in quoted(ROOT / package / "README.md") if "::" in text]
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not any(
            f"def {test}(" in path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(Path(file).name)
        )
    ]
    assert named
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_and_room_is_on_the_page(package: str) -> None:
    """A module that becomes a folder, or the other way round, keeps its name."""
    named = {re.sub(r"(\.py|/)$", "", text) for text in quoted(ROOT / package / "README.md")}
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    assert sorted((modules | rooms) - named) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_layers_are_those_of_the_contract(package: str) -> None:
    layers = next(
        each["layers"] for each in contracts() if each["type"] == "layers" and each["layers"][0].startswith(package)
    )
    (block,) = re.findall(r"## Layers\n.*?```\n(.*?)```", (ROOT / package / "README.md").read_text(), re.DOTALL)
    shown = [re.split(r" {3,}", line)[0] for line in block.splitlines()]
    assert shown == [layer.replace(f"{package}.", "") for layer in layers]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_and_room_has_a_layer(package: str) -> None:
    (layers,) = (each["layers"] for each in contracts() if "layers" in each and each["layers"][0].startswith(package))
    named = {name for layer in layers for name in layer.split(" | ")}
    assert sorted(modules_of(package) - named) == []


@pytest.mark.parametrize(
    ("contract", "free"),
    [
        ("Only execution knows Ray", {"cli", "comparison", "api", "execution"}),
        ("Only rendering and execution know torch", {"cli", "comparison", "api", "execution", "rendering"}),
        ("Only storage knows fsspec", {"storage"}),
    ],
)
def test_a_contract_binds_every_other_module(contract: str, free: set[str]) -> None:
    (bound,) = (set(each["source_modules"]) for each in contracts() if each["name"] == contract)
    assert sorted(modules_of("lynx_batch") - {f"lynx_batch.{name}" for name in free} - bound) == []
