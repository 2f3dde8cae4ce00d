"""The commands as typed functions: their signatures and docstrings make the parser; bodies are imported when called.

===============  ============================================================
command          body
===============  ============================================================
``demo``         ``cli/demos/demo.py``
``report``       ``cli/reports.py``
``watch``        ``cli/watches/watch.py``
``reproduce``    ``cli/reproductions/reproduction.py``
``configs``      ``cli/shipped_configs.py``
``grid``         ``cli/grids/grid.py``
``advise``       ``cli/advice.py``
``predict``      ``cli/predictions.py``
``audit``        ``cli/audits/audit.py``
``export``       ``cli/exports/export.py``
``cluster``      ``cli/clusterings.py``
``check_store``  ``cli/store_checks.py``
===============  ============================================================

``fit``, ``validate`` and ``test`` are LightningCLI's own, in ``cli/fit.py``.
"""
