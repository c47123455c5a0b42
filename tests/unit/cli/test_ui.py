"""How the browser is opened: the token of the page is for its user only."""

from __future__ import annotations

import stat

from replicator.cli.ui import page_that_leads_to


def test_the_browser_is_opened_by_a_file_that_nobody_else_can_read() -> None:
    url = "http://127.0.0.1:1/ui#token=a-b_c"
    with page_that_leads_to(url) as page:
        assert url in page.read_text()
        assert "token" not in page.as_uri()
        assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    assert not page.parent.exists()
