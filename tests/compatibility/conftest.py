"""Prints the compatibility table after a run and, where COMPATIBILITY_PAGE names a page, renews its rows there."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
from compatibility_page import renewed, table_text
from training_fixtures import one_thread, separate_random_state, shared_modules_in_workers

__all__ = ["one_thread", "separate_random_state", "shared_modules_in_workers"]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [dict(report.user_properties)["compatibility"] for report in reports if _is_row(report)]
    if not rows:
        return
    terminalreporter.section("compatibility")
    terminalreporter.write_line(table_text(rows))
    page = os.environ.get("COMPATIBILITY_PAGE")
    if page:
        path = Path(page)
        text = path.read_text() if path.is_file() else ""
        path.write_text(renewed(text, rows, datetime.date.today()))


def _is_row(report):
    return report.when == "call" and "compatibility" in dict(report.user_properties)
