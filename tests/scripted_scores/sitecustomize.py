"""Scripts the likeness of clips: with this folder on PYTHONPATH, clips of some seeds are found unlike their photo, and all others alike.

The tiny model's noise looks like nobody, whatever its seed. Each seed that is judged is appended to a file, in the order of judging.
"""

import importlib.abc
import importlib.util
import os
import sys
from dataclasses import replace

JUDGE = "lynx_model.scoring.judge"
POOR, GOOD = 0.1, 0.6


class _Scripting(importlib.abc.MetaPathFinder):
    """Changes the judge as soon as it is imported."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != JUDGE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_scripted(module):  # type: ignore[no-untyped-def]
            load(module)
            _script(module.ClipJudge)

        spec.loader.exec_module = load_scripted
        return spec


def _script(judge):  # type: ignore[no-untyped-def]
    score, poor = judge.score, {int(seed) for seed in os.environ["POOR_SEEDS"].split(",")}

    def scripted(self, mp4, subject, params, **more):  # type: ignore[no-untyped-def]
        scores = score(self, mp4, subject, params, **more)
        with open(os.environ["JUDGED_SEEDS"], "a", encoding="utf-8") as file:
            file.write(f"{params.seed}\n")
        p10 = POOR if params.seed in poor else GOOD
        return replace(scores, likeness=replace(scores.likeness, p10=p10))

    judge.score = scripted


if "POOR_SEEDS" in os.environ:
    sys.meta_path.insert(0, _Scripting())
