"""Every kind of alert has a runbook with the same sections, and a line in the reference; every runbook has a kind."""

import re
from pathlib import Path

import pytest
import yaml

from ml_platform.alerts.alert import KINDS
from ml_platform.alerts.settings import AlertSettings

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUNBOOKS = DOCS / "runbooks"

WITHOUT_ALERT = {"index.md", "does-not-start.md"}
"""The list, and the page about a platform that does not run and so sends nothing."""


@pytest.mark.parametrize("kind", KINDS)
def test_kind_has_a_runbook_with_symptom_steps_and_end(kind: str) -> None:
    text = (RUNBOOKS / KINDS[kind].runbook).read_text()
    assert re.search(r"^# \S", text)
    for section in (r"\*\*Symptom\*\*: ", r"\*\*Still works\*\*: ", r"\*\*(Do|First)\*\*", r"\*\*Done when\*\* "):
        assert re.search(f"^{section}", text, re.MULTILINE), section


def test_every_runbook_belongs_to_a_kind_and_is_in_the_list() -> None:
    pages = {page.name for page in RUNBOOKS.glob("*.md")}
    assert pages - WITHOUT_ALERT == {each.runbook for each in KINDS.values()}
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (RUNBOOKS / "index.md").read_text()))
    assert pages - {"index.md"} == listed


def test_reference_lists_exactly_the_kinds() -> None:
    section = (DOCS / "reference" / "alerts.md").read_text().partition("## Kinds")[2].partition("## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) != []
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(KINDS)


def test_example_of_the_how_to_is_valid() -> None:
    text = (DOCS / "how-to" / "be-alerted.md").read_text()
    examples = re.findall(r"^```\n((?:name|alertmanager): .*?)^```", text, re.MULTILINE | re.DOTALL)
    found = [AlertSettings.model_validate(yaml.safe_load(each)) for each in examples]
    assert [(list(each.routes), each.alertmanager is not None) for each in found] == [
        (["aviation", "pages"], False),
        ([], True),
    ]
