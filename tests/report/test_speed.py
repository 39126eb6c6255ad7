"""The committed run of the benchmark as a table."""

from __future__ import annotations

import json

from hetpure_lab.report import speed


def test_the_table_has_what_was_measured_and_the_machine(tmp_path):
    assert "Not measured yet" in speed.table(tmp_path).data
    about = {"cores": 2, "machine": "x", "torch": "2", "commit": "abc"}
    found = about | {"exact_over_floor": 1.234, "dask_2_over_1": None}
    (tmp_path / "bench.json").write_text(json.dumps(found))
    shown = speed.table(tmp_path).to_html()
    assert "2 cores of x, torch 2, commit abc" in shown and shown.count("<tr") == 2
    assert "1.23<" in shown
