"""Which laws every method was seen to pass, written down for `saesteer methods list`.

    SAESTEER_RECORD_LAWS=saesteer/assets/laws.json pytest tests/conformance -m 'full or not full'

A law counts for a method when each of its cases passed on every architecture that can carry it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import pytest
from method_cases import CASES, UNREACHABLE

VARIABLE = "SAESTEER_RECORD_LAWS"
MODULE = "test_method_laws.py"


def method_of(case: str) -> str:
    """`CAST` for the case `CAST-last`."""
    return case.partition("-")[0]


def law_of(test: str) -> str:
    """`cached equals uncached` for `test_cached_equals_uncached`."""
    return test.removeprefix("test_").replace("_don_t_", "_don't_").replace("_", " ")


def unreachable() -> dict[str, dict[str, str]]:
    """By method, the architectures that it can't act on, with the reason."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for (case, arch), reason in UNREACHABLE.items():
        found[method_of(case)][arch] = reason
    return found


@final
class LawRecord:
    """A pytest plugin that notes outcomes and writes them at the end of a full run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, dict[str, dict[str, bool]]] = defaultdict(lambda: defaultdict(dict))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        """Note one outcome: of the call, or of a setup that failed."""
        outcome = yield
        report = outcome.get_result()
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")  # pyright: ignore[reportAttributeAccessIssue]
        if case is None or item.path.name != MODULE:
            return
        if report.when == "call" or (report.when == "setup" and not report.passed):
            name, arch = case
            law = law_of(item.originalname)  # pyright: ignore[reportAttributeAccessIssue]
            seen = self._seen[method_of(name)][law]
            seen[arch] = seen.get(arch, True) and report.passed

    def pytest_sessionfinish(self) -> None:
        """Write what a full run saw; a partial one would write half of the truth."""
        missing = {method_of(name) for name in CASES} - set(self._seen)
        if missing:
            raise pytest.UsageError(f"laws not recorded: the run left out {sorted(missing)}.")
        self._path.write_text(json.dumps(_table(self._seen), indent=1) + "\n")


def _table(seen: Mapping[str, Mapping[str, Mapping[str, bool]]]) -> dict[str, Any]:
    left_out = unreachable()
    return {
        name: {
            "architectures": sorted({arch for archs in laws.values() for arch in archs}),
            "passed": sorted(law for law, archs in laws.items() if all(archs.values())),
            "failed": sorted(law for law, archs in laws.items() if not all(archs.values())),
            "left_out": left_out.get(name, {}),
        }
        for name, laws in sorted(seen.items())
    }
