"""No name that comes from outside leads out of the folder that it is meant for, wherever it is read."""

import re
from pathlib import Path

import pytest

from lynx_model.checkpoints.names import below, check_names
from lynx_model.errors import WeightsMismatch

LEADING_OUT = [
    "../x.json",
    "vae/../../x.json",
    "vae/../x.json",
    "..",
    "/etc/x.json",
    "//host/x.json",
    "./x.json",
    "vae/./x.json",
    "vae//x.json",
    "vae/",
    "",
    "..\\x.json",
    "C:\\x.json",
    "C:x.json",
    "file:///x.json",
    "x.json\0",
    "x\n.json",
    "\x1b[31mx.json",
    "\ud800.json",
    " ../x.json",
    "vae /x.json",
    "x.json ",
    "a" * 201 + ".json",
    "é" * 101 + ".json",
    "/".join(["a" * 100] * 11) + "/x.json",
    None,
    1,
    ["x.json"],
]


@pytest.mark.parametrize("name", LEADING_OUT, ids=lambda name: repr(name)[:30])
def test_a_name_that_leads_out_or_cannot_be_written_everywhere_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(WeightsMismatch, match=r"^the index: file name .{1,210}: must ") as caught:
        below(tmp_path, name, source="the index")
    with pytest.raises(WeightsMismatch, match=re.escape(str(caught.value))):
        check_names([name], source="the index")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x.json", "vae/x.json", "a b/ü-1.json", "..x.json", "x..json", "a/b/c/d", "名.json"])
def test_any_other_name_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    assert below(tmp_path, name, source="the index") == tmp_path / name
    check_names([name], source="the index")


def test_a_symbolic_link_on_the_way_must_stay_in_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    (folder / "real").mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "out").symlink_to(elsewhere)
    (folder / "inside").symlink_to(folder / "real")
    (tmp_path / "link").symlink_to(folder)
    assert below(folder, "inside/x.json", source="s") == folder / "inside" / "x.json"
    assert below(tmp_path / "link", "real/x.json", source="s") == tmp_path / "link" / "real" / "x.json"
    for name in ("out/x.json", "out/new/x.json"):
        with pytest.raises(WeightsMismatch, match=rf"file name '{name}': must not pass a symbolic link that leaves"):
            below(folder, name, source="s")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["vae/x.json", "VAE/X.json"], "'VAE/X.json': must differ from 'vae/x.json' by more than case or Unicode form"),
        (["\u00e9.json", "e\u0301.json"], "must differ from '\u00e9.json' by more than case or Unicode form"),
        (["straße.json", "STRASSE.json"], "must differ from 'straße.json' by more than"),
        (["x.json", "x.json"], "must differ from 'x.json'"),
        (["x.json", "x.json/y.json"], "'x.json': must be a file, but 'x.json/y.json' makes it a folder"),
        (["X.json/a/y.json", "x.json"], "'x.json': must be a file, but 'X.json/a/y.json' makes it a folder"),
    ],
)
def test_names_that_some_file_systems_take_for_one_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(WeightsMismatch, match=re.escape(message)):
        check_names(names, source="s")
