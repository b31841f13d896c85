"""A saved rule plan loads in a process that has never heard of rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from saesteer.rules import RuleBook

BOOK = {
    "concepts": {"wet": {"feature": 3, "threshold": 0.5}},
    "rules": "act :- not wet.",
    "acts": {"act": {"clamp": 7, "value": 9.0}},
}
CODE = "import sys; from saesteer import Plan; print(Plan.load(sys.argv[1]).edits[0].gate.sites)"


def load(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, check=False
    )


def test_the_manifest_says_where_a_kind_is_at_home(
    tiny_model: Any, tiny_sae: Any, tmp_path: Path
) -> None:
    plan = RuleBook.from_dict(BOOK).plan(tiny_sae(tiny_model("llama"), "resid_post.2"))
    plan.save(tmp_path / "plan")
    done = load(tmp_path / "plan")
    assert done.returncode == 0, done.stderr
    assert "resid_post" in done.stdout

    manifest = tmp_path / "plan" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("saesteer.rules.gate", "antigravity"))
    refused = load(tmp_path / "plan")
    assert "unknown kind" in refused.stderr
    assert json.loads(manifest.read_text())
