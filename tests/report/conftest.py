"""One run of the synthetic rooms for all tests of the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import synthetic

from reports import __main__ as command


@pytest.fixture(scope="session")
def _compiled(tmp_path_factory) -> Path:
    results = tmp_path_factory.mktemp("synthetic") / "results"
    with synthetic.among_methods():
        synthetic.make(results)
        plan = synthetic.planned(results)
        assert [*command._collect(plan), *command._judge(plan), *command._compile(plan)] == []
    return results


@pytest.fixture
def compiled(_compiled) -> Path:
    """The synthetic rooms' results with their report; the rooms are among the methods. To be read only."""
    with synthetic.among_methods():
        yield _compiled


@pytest.fixture
def own_copy(compiled, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(compiled, tmp_path / "results"))
