"""The report: one self-contained HTML page about the norms of a run, made offline from its history."""

try:
    import matplotlib as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "lightning_normdyn.report draws with matplotlib, which is not installed: "
        "pip install 'lightning-normdyn[report]'"
    ) from error

from lightning_normdyn.report.run.write import write_report
from lightning_normdyn.report.votes import draw_votes, write_votes

__all__ = ["draw_votes", "write_report", "write_votes"]
