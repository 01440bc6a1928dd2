"""The check of links in pages (scripts/check_links.py)."""

import importlib.util
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


# Breaks when a page may name what is not there, or a name with a stand-in is taken for a path.
def test_links_that_lead_nowhere_are_found() -> None:
    spec = importlib.util.spec_from_file_location("check_links", REPOSITORY / "scripts" / "check_links.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = REPOSITORY / "reports" / "PAGE.md"
    assert (
        module.faults(page, "[a](tests) [b](https://a.b/c) `reports/tests` `suites/suite_x.cc` `smoke.json`")
        == []
    )
    assert module.faults(page, "[a](gone.md#here)") == ["link to gone.md"]
    assert module.faults(page, "see `suites/gone.json`") == ["`suites/gone.json`"]
