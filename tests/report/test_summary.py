"""summary.json."""

import pytest

from hierlm.errors import UserError
from hierlm.report.summary import read_summary, write_summary
from tests.report.conftest import MakeRun


def test_a_summary_comes_back_as_it_was_written(make_run: MakeRun) -> None:
    run_dir = make_run("a")
    summary = read_summary(run_dir.summary)
    assert summary is not None
    write_summary(run_dir.summary, summary)
    assert read_summary(run_dir.summary) == summary
    assert summary.train_flops == 6e6 * 102_400


def test_none_without_a_file_and_a_clear_error_for_another_version(make_run: MakeRun) -> None:
    run_dir = make_run("a", summary=False)
    assert read_summary(run_dir.summary) is None
    run_dir.summary.write_text('{"name": "a"}')
    with pytest.raises(UserError, match=r"summary.json: arch: .*another version"):
        read_summary(run_dir.summary)
