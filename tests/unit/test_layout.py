"""What test files share lies beside them, in `tests/builders.py` and its siblings."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.models import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_file_imports_from_a_test_file() -> None:
    found = {
        file.name: name for file in FILES for name in imported(file) if name.startswith("tests.") and ".test_" in name
    }
    assert found == {}
