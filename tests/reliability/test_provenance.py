"""Every result folder says where it comes from: lock file, commit, config, seeds, hardware, threads."""

from __future__ import annotations

import pandas as pd

from tycho import provenance
from tycho.config import load_settings
from tycho.files import content_hash, read_json
from tycho.jobs import job_folder, plan
from tycho.provenance import left_settings
from tycho.worker import run_process


def run_toy(results, **more):
    methods = {"toy": {"arms": ["steep"], "seeds": [3], "config": {"steps": 5}}}
    found = plan(load_settings({"scale": "smoke", "results": str(results), "only": ["toy"], "methods": methods} | more))
    for process in found.ordered():
        assert run_process(found, process) == {}
    return found


def test_it_is_all_there(toys, tmp_path):
    found = run_toy(tmp_path, threads=2)
    place = tmp_path / "smoke" / "provenance"
    (lock,) = place.glob("lock-*.txt")
    assert content_hash(lock) == content_hash(provenance.LOCK)
    assert left_settings(tmp_path / "smoke") == found.settings.model_dump(mode="json")
    for key, job in found.jobs.items():
        folder = job_folder(found.settings, key)
        status, config = read_json(folder / "status.json"), read_json(folder / "config.json")
        assert config["steps"] == 5 and key.seed == (0 if key.arm == "synthesis" else 3)
        for stage in job.stages:
            made = status["stages"][stage]
            assert len(made["commit"]) == 40 and isinstance(made["dirty"], bool)
            assert made["lock"] == lock.stem.removeprefix("lock-") and (made["threads"], made["device"]) == (2, "cpu")
            machine = made["machine"]
            assert machine["processor"] and machine["cores"] >= 1 and machine["host"] and machine["python"]
            assert machine["torch"] != "not installed" and machine["gpus"] == []
            costs = pd.read_parquet(folder / stage / "costs.parquet")
            assert costs.threads.tolist() == [2] and costs.device.tolist() == ["cpu"]


def test_each_lock_file_that_was_used_stays(toys, tmp_path, monkeypatch):
    """Results of one environment and then of another: both can be told apart and looked up."""
    run_toy(tmp_path / "r")
    other = tmp_path / "lock.txt"
    other.write_text("torch==0.0\n")
    monkeypatch.setattr(provenance, "LOCK", other)
    provenance.code_state.cache_clear()
    run_toy(tmp_path / "r", methods={"toy": {"arms": ["flat"], "seeds": 1}})
    provenance.code_state.cache_clear()
    place = tmp_path / "r" / "smoke"
    assert len(list((place / "provenance").glob("lock-*.txt"))) == 2
    locks = {
        arm: read_json(place / f"jobs/toy/{arm}/line/seed{seed}/status.json")["stages"]["train"]["lock"]
        for arm, seed in (("steep", 3), ("flat", 0))
    }
    assert locks["steep"] != locks["flat"] == content_hash(other)[:16]
    assert (place / "provenance" / f"lock-{locks['flat']}.txt").read_text() == "torch==0.0\n"
