"""What people read is true of the code: reference tables, commands, run files, Python imports and links."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from lynx_batch.cli import app
from lynx_batch.config import RunConfig
from tests.guide import ANSWERS_SCHEMA, GUIDE, GUIDES, PRESETS_PAGE, SECTIONS, write_answers_schema, write_guide
from tests.models import ROOT

README = ROOT / "README.md"
DOCUMENTS = (README, GUIDE, PRESETS_PAGE, ROOT / "CONTRIBUTING.md", ROOT / "cluster" / "README.md")
MAX_README_LINES = 80

BLOCK = re.compile(r"^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"`(lynx-batch [^`\n]+)`")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))


def blocks(document: Path, language: str) -> list[str]:
    return [match["text"] for match in BLOCK.finditer(document.read_text()) if match["language"] == language]


def commands(document: Path) -> Iterator[list[str]]:
    """The arguments of each call of lynx-batch, in a block or in a sentence."""
    lines = [line for block in blocks(document, "") for line in block.splitlines() if "lynx-batch " in line]
    for text in [*lines, *CODE_SPAN.findall(document.read_text())]:
        words = shlex.split(text, comments=True)
        program = next(n for n, word in enumerate(words) if word.rpartition("/")[2] == "lynx-batch")
        yield words[program + 1 :]


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `words` begin with, and the rest of them."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def names(command: Any, prefix: str = "") -> Iterator[str]:
    for name, inner in command.commands.items():
        yield from names(inner, f"{prefix}{name} ") if hasattr(inner, "commands") else [prefix + name]


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    titles = (match["title"].lower() for match in HEADING.finditer(document.read_text()))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def test_generated_sections_say_what_the_schemas_say() -> None:
    text = "".join(guide.read_text() for guide in GUIDES)
    assert [text.count(f"<!-- generated: {name} -->\n") for name in SECTIONS] == [1] * len(SECTIONS)
    assert write_guide(text) == text, "stale: run `make docs`"
    assert ANSWERS_SCHEMA.read_text() == write_answers_schema(), "stale: run `make docs`"


def test_a_stale_section_is_noticed() -> None:
    text = GUIDE.read_text()
    stale = text.replace("| `fps` |", "| `frame_rate` |")
    assert stale != text
    assert write_guide(stale) == text


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


def test_the_guide_tells_of_every_command() -> None:
    text = GUIDE.read_text()
    assert [name for name in names(typer.main.get_command(app)) if not re.search(rf"`{name}[` ]", text)] == []


@each_document
def test_commands_and_their_options_exist(document: Path) -> None:
    for words in commands(document):
        command, rest = find_command(words)
        assert not hasattr(command, "commands") or not rest or rest[0].isupper() or rest[0].startswith("--"), words
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= known | {"--help"}, words


@each_document
def test_run_files_are_valid(document: Path) -> None:
    needed = {"manifest": "m", "output": "o", "model": {"base": "b", "adapters": "a"}}
    for block in blocks(document, "yaml"):
        RunConfig.model_validate(needed | yaml.safe_load(block))


@each_document
def test_python_examples_import_what_exists(document: Path) -> None:
    for block in blocks(document, "python"):
        for statement in ast.walk(ast.parse(block)):
            if isinstance(statement, ast.ImportFrom):
                module = importlib.import_module(str(statement.module))
                assert [name.name for name in statement.names if not hasattr(module, name.name)] == []


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for match in LINK.finditer(document.read_text()):
        file, _, anchor = match["target"].partition("#")
        if "://" in file:
            continue
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), match["target"]
        assert not anchor or anchor in anchors(target), match["target"]
