"""From settings to jobs: ingredients, order, and digests that change when an outcome may and only then."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest

from tycho import jobs
from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.jobs import Plan, plan
from tycho.keys import JobKey
from tycho.sources import stage_digest
from tycho.worker import run_process

BASE_AND_TUNED = '{"tuned": Arm("tuned"), "plain": Arm("plain"), "base": Arm("base", role="ingredient")}'
TUNED_NEEDS_BASE = """
def needs(self, key, config):
    if key.arm != "tuned":
        return {}
    return {"base": Need(JobKey(key.scale, "toy", "base", key.task, key.seed), "train")}
"""
SYNTHESIS = """
def synthesise(self, run):
    run.metric("jobs", len(run.jobs))
"""

USES_BASE = 'def needs(self, key, config):\n    return {"x": Need(JobKey(key.scale, "toy", "base", "t", 0))}\n'


def planned(given: dict | None = None, **toy) -> Plan:
    methods = {"methods": {"toy": toy}} if toy else {}
    return plan(load_settings({"scale": "smoke", "device": "cpu"} | methods | (given or {})))


def key(arm: str, seed: int = 0, method: str = "toy", task: str = "t") -> JobKey:
    return JobKey("smoke", method, arm, task, seed)


@pytest.fixture
def toy(rooms):
    """`tuned` needs `base`, which nobody asks for by name; a synthesis looks at all."""
    rooms.write("toy", rooms.adapter("toy", TUNED_NEEDS_BASE + SYNTHESIS, arms=BASE_AND_TUNED), "smoke: {seeds: 2}")
    return rooms


def digests(found: Plan) -> dict[str, str]:
    return {f"{key.method}/{key.arm}/{stage}": d for key, job in found.jobs.items() for stage, d in job.digests.items()}


def changed(before: Plan, after: Plan) -> set[str]:
    old, new = digests(before), digests(after)
    assert old.keys() == new.keys()
    return {name for name in old if old[name] != new[name]}


# --- which jobs ------------------------------------------------------------------------------------------------------


def test_ingredients_come_with_whoever_needs_them(toy):
    assert {str(key.path) for key in planned().jobs} == {
        f"toy/{arm}/t/seed{seed}" for arm in ("tuned", "plain", "base") for seed in (0, 1)
    } | {"toy/synthesis/all/seed0"}
    assert {key.arm for key in planned(arms=["plain"]).jobs} == {"plain", "synthesis"}


def test_a_task_may_have_arms_of_its_own(rooms):
    rooms.write(
        "toy", rooms.adapter("toy", arms=BASE_AND_TUNED), "smoke: {arms: [plain, tuned], task_arms: {t: [plain]}}"
    )
    assert {key.arm for key in planned().jobs} == {"plain"}
    assert {key.arm for key in planned(task_arms=None).jobs} == {"plain", "tuned"}


def test_a_task_may_have_seeds_of_its_own(rooms):
    rooms.write("toy", scales="smoke: {seeds: 3, task_seeds: {t: [1]}}")
    assert {key.seed for key in planned().jobs} == {1}
    assert {key.seed for key in planned(task_seeds=None).jobs} == {0, 1, 2}


def test_needs_are_edges(toy):
    found = planned()
    by_arm = {process.arm: process for process in found.processes}
    assert found.upstream(by_arm["tuned"]) == [by_arm["base"]]
    assert found.upstream(by_arm["plain"]) == found.upstream(by_arm["base"]) == []
    assert {process.arm for process in found.upstream(by_arm["synthesis"])} == {"tuned", "plain", "base"}
    order = [process.arm for process in found.ordered()]
    assert order.index("base") < order.index("tuned") < order.index("synthesis") == 3


def test_what_most_time_hangs_on_is_ahead(toy):
    """A budget of 40 for four processes: base -> tuned -> synthesis is a chain of three, plain -> synthesis of two."""
    assert set(planned().ahead.values()) == {0.0}  # a plan without a budget: none before another
    found = planned(cpu_seconds=40)
    assert {p.arm: found.ahead[p.receipt] for p in found.processes} == {
        "base": 30, "tuned": 20, "plain": 20, "synthesis": 10,
    }  # fmt: skip
    toy.write("user", toy.adapter("user", USES_BASE), "smoke: {cpu_seconds: 500}")
    both = plan(load_settings({"scale": "smoke", "device": "cpu", "methods": {"toy": {"cpu_seconds": 40}}}))
    ahead = {(p.method, p.arm): both.ahead[p.receipt] for p in both.processes}
    assert ahead["toy", "base"] == 10 + 500 and ahead["toy", "plain"] == 20  # what another method waits for counts


def test_a_synthesis_depends_on_all_its_methods_jobs(toy):
    synthesis = planned().jobs[key("synthesis", task="all")]
    assert synthesis.stages == ("synthesise",)
    assert set(synthesis.needs) == {f"smoke/toy/{arm}/t/seed{s}" for arm in ("base", "plain", "tuned") for s in (0, 1)}
    assert {need.stage for need in synthesis.needs.values()} == {"analyse"}


def test_a_synthesis_does_not_wait_for_what_it_does_not_read(toy):
    reads = SYNTHESIS + "def synthesis_reads(self, key):\n    return key.seed == {}\n"
    plans = "smoke: {seeds: 2}"
    toy.write("some", toy.adapter("some", reads.format(1)), plans)
    synthesis = planned({"only": ["some"]}).jobs[key("synthesis", method="some", task="all")]
    assert list(synthesis.needs) == ["smoke/some/one/t/seed1"]
    toy.write("blind", toy.adapter("blind", reads.format(7)), plans)
    assert {found.arm for found in planned({"only": ["blind"]}).jobs} == {"one"}


def test_a_synthesis_leaves_jobs_of_other_methods_out(toy):
    needs = 'def needs(self, key, config):\n    return {"x": Need(JobKey(key.scale, "toy", "base", "t", 7))}\n'
    toy.write("user", toy.adapter("user", needs + SYNTHESIS), "smoke: {}")
    synthesis = planned({"only": ["user"]}).jobs[key("synthesis", method="user", task="all")]
    assert list(synthesis.needs) == ["smoke/user/one/t/seed0"]


def test_ingredients_of_another_method(toy):
    """They come with the plan of that method at this scale, and with nothing else of it."""
    needs = 'def needs(self, key, config):\n    return {"x": Need(JobKey(key.scale, "toy", "base", "t", 7))}\n'
    toy.write("user", toy.adapter("user", needs), "smoke: {}")
    found = planned({"only": ["user"]})
    assert {str(key.path) for key in found.jobs} == {"user/one/t/seed0", "toy/base/t/seed7"}
    assert found.methods == ["toy", "user"] and found.plans["toy"].seeds == [0, 1]
    whole = planned()
    assert key("base", 7) in whole.jobs
    same = key("synthesis", task="all")
    assert whole.jobs[same].digests == planned({"only": ["toy"]}).jobs[same].digests  # what others take is not its own


def test_an_ingredient_of_a_method_without_this_scale(toy):
    needs = 'def needs(self, key, config):\n    return {"x": Need(JobKey(key.scale, "toy", "base", "t", 0))}\n'
    toy.write("toy", toy.adapter("toy", arms=BASE_AND_TUNED), "quick: {}")
    toy.write("user", toy.adapter("user", needs), "smoke: {}")
    reason = "smoke/toy/base/t/seed0 is needed, but toy has no entry for scale smoke in its scales.yaml"
    assert planned().broken == {"user": f"method 'user' cannot be planned: {reason}"}


def test_processes_hold_all_seeds_or_one(toy):
    assert [(p.arm, p.seeds) for p in planned().processes] == [
        ("base", "0to1"),
        ("plain", "0to1"),
        ("synthesis", "0"),
        ("tuned", "0to1"),
    ]
    apart = planned(together=False)
    assert [(p.arm, p.seeds) for p in apart.processes if p.arm == "tuned"] == [("tuned", "0"), ("tuned", "1")]
    assert digests(apart) == digests(planned())
    tuned = apart.process("toy", "tuned", "t", "1")
    assert apart.upstream(tuned) == [apart.process("toy", "base", "t", "1")]
    with pytest.raises(TychoError, match="scale smoke plans no process toy/tuned/t with seeds 0-1"):
        apart.process("toy", "tuned", "t", "0-1")


def test_receipts_are_apart_and_safe_as_files(toy):
    for together in (True, False):
        found = planned(together=together)
        receipts = [process.receipt for process in found.processes]
        assert len(set(receipts)) == len(receipts)
        assert all(not receipt.is_absolute() and ".." not in receipt.parts for receipt in receipts)


# --- digests ---------------------------------------------------------------------------------------------------------


def test_digests_are_the_same_in_every_process(toy):
    """Whatever the order of sets: one process plans the DAG, another runs its jobs."""
    code = (
        "import json; from tycho.config import load_settings; from tycho.jobs import plan\n"
        "found = plan(load_settings({'scale': 'smoke', 'device': 'cpu', 'only': ['toy']}))\n"
        "print(json.dumps([str(process.receipt) for process in found.processes]))\n"
    )
    receipts = [str(process.receipt) for process in planned().processes]
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == receipts


def test_every_job_has_a_digest_of_its_own(toy):
    found = planned()
    several = [digest for job in found.jobs.values() for digest in job.digests.values()]
    assert len(set(several)) == len(several)


def test_a_knob_of_a_stage_changes_it_and_the_later_ones(toy):
    before = planned(config={})
    arms = ("base", "plain", "tuned")
    analyse = {f"toy/{arm}/analyse" for arm in arms}
    all_ = analyse | {f"toy/{arm}/train" for arm in arms} | {"toy/synthesis/synthesise"}
    assert changed(before, planned(config={"colour": "blue"})) == analyse | {"toy/synthesis/synthesise"}
    assert changed(before, planned(config={"size": 2})) == all_
    assert changed(before, planned(config={"size": 1})) == set()


def test_a_change_goes_downstream_and_only_there(toy):
    before = planned(config={})
    after = planned(config={}, arm_config={"base": {"size": 5}})
    assert changed(before, after) == {
        f"toy/{name}" for name in ("base/train", "base/analyse", "tuned/train", "tuned/analyse", "synthesis/synthesise")
    }
    later = planned(config={}, arm_config={"base": {"colour": "blue"}})  # `tuned` needs no more than base's training
    assert changed(before, later) == {"toy/base/analyse", "toy/synthesis/synthesise"}


def test_an_edit_of_one_method_leaves_the_others(toy):
    toy.write("other", scales="smoke: {seeds: 2}")
    before = planned()
    toy.edit("toy", "method.py", 'run.metric("size", run.config.size)', 'run.metric("size", 2)')
    assert {name for name in changed(before, planned()) if name.startswith("other")} == set()
    assert "toy/plain/train" in changed(before, planned())


def test_threads_change_results_and_so_digests(toy):
    assert changed(planned(), planned({"threads": 2})) == set(digests(planned()))


def test_where_and_how_often_change_no_digest(toy):
    other = planned({"results": "elsewhere", "checkpoint_seconds": 1, "tracking_uri": "x"})
    assert changed(planned(), other) == set()


def test_the_generation_changes_all_digests(toy, monkeypatch):
    before = planned()
    monkeypatch.setattr("tycho.jobs.GENERATION", 99)
    assert changed(before, planned()) == set(digests(before))


def test_a_jobs_digest_does_not_depend_on_what_else_is_planned(toy):
    arms = ("base", "plain", "tuned")
    whole = planned(arms=[*arms], seeds=4)
    for chosen in [subset for n in (1, 2) for subset in itertools.combinations(arms, n)]:
        for seed in range(4):
            part = planned(arms=[*chosen], seeds=[seed])
            for key, job in part.jobs.items():
                assert key.arm == "synthesis" or whole.jobs[key].digests == job.digests


def test_a_process_finds_itself_without_the_code_of_the_others(toy, monkeypatch):
    toy.write("other")
    checked = planned()
    read: list[str] = []
    monkeypatch.setattr(jobs, "stage_digest", lambda room, stage: read.append(room.name) or stage_digest(room, stage))
    unchecked = plan(load_settings({"scale": "smoke", "device": "cpu"}), check=False)
    assert not read
    found = unchecked.process("toy", "tuned", "t", "0to1")
    assert found.digest == checked.process("toy", "tuned", "t", "0to1").digest
    assert set(read) == {"toy"}
    assert {process.receipt for process in unchecked.processes} == {process.receipt for process in checked.processes}


# --- what cannot be planned ------------------------------------------------------------------------------------------


def needs(*edges: str) -> str:
    """`needs` of edges like "a0 b1": arm a's seed 0 needs arm b's seed 1."""
    pairs = dict(edge.split() for edge in edges)
    return f"""
def needs(self, key, config):
    wanted = {pairs!r}.get(f"{{key.arm}}{{key.seed}}")
    return {{"other": Need(JobKey(key.scale, "toy", wanted[0], "t", int(wanted[1])))}} if wanted else {{}}
"""


AB = '{"a": Arm("a"), "b": Arm("b")}'


def refused(rooms, *edges: str, scales: str = "smoke: {seeds: 2}") -> str:
    """Why a method `toy` with these needs is left out; the other method runs."""
    rooms.write("toy", rooms.adapter("toy", needs(*edges), arms=AB), scales)
    rooms.write("other")
    found = planned()
    assert found.methods == ["other"] and list(found.broken) == ["toy"]
    with pytest.raises(TychoError) as error:
        planned(config={})
    assert str(error.value) in found.broken["toy"] and "\n" not in found.broken["toy"]
    return found.broken["toy"]


def test_a_circle_of_jobs_is_named(rooms):
    reason = refused(rooms, "a0 b0", "b0 a0")
    assert "jobs need each other in a circle: " in reason
    assert reason.count("smoke/toy/a/t/seed0") + reason.count("smoke/toy/b/t/seed0") == 3


def test_a_job_that_needs_itself_is_named(rooms):
    assert "smoke/toy/a/t/seed1 -> smoke/toy/a/t/seed1" in refused(rooms, "a1 a1")


def test_a_circle_of_processes_is_named_with_its_mend(rooms):
    """No circle of jobs, but each arm's process would wait for the other's."""
    edges = ("a1 b0", "b1 a0")
    reason = refused(rooms, *edges)
    assert "processes wait for each other in a circle" in reason and "toy/a/t" in reason and "toy/b/t" in reason
    assert "`together: false`" in reason
    rooms.write("toy", rooms.adapter("toy", needs(*edges), arms=AB), "smoke: {seeds: 2, together: false}")
    found = planned()
    assert found.broken == {}
    order = [(process.arm, process.seeds) for process in found.ordered()]
    assert order.index(("b", "0")) < order.index(("a", "1")) and order.index(("a", "0")) < order.index(("b", "1"))


def test_within_a_process_a_job_comes_after_what_it_needs(rooms, tmp_path):
    """Seed 0 needs seed 2 of its own arm: in the order of seeds it would be started too early."""
    rooms.write("toy", rooms.adapter("toy", needs("a0 a2", "a2 a1"), arms=AB), "smoke: {seeds: 3}")
    found = planned({"results": str(tmp_path / "results")})
    (process,) = [process for process in found.processes if process.arm == "a"]
    assert [job.key.seed for job in process.jobs] == [1, 2, 0] and process.seeds == "0to2"
    assert found.upstream(process) == [] and run_process(found, process) == {}


def test_seeds_of_two_processes_may_cross_within_an_arm(rooms):
    rooms.write("toy", rooms.adapter("toy", needs("a1 b1", "a0 b0"), arms=AB), "smoke: {seeds: 2}")
    assert [process.arm for process in planned().ordered()] == ["b", "a"]


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        ('Need(JobKey(key.scale, "toy", "b", "t", 0), "evaluate")', "needs stage 'evaluate' of smoke/toy/b/t/seed0"),
        ('Need(JobKey(key.scale, "toy", "b", "t", 0), "trian")', "needs stage 'trian'"),
        ('Need(JobKey(key.scale, "toy", "c", "t", 0))', "unknown arm of toy 'c'"),
        ('Need(JobKey(key.scale, "toy", "b", "u", 0))', "unknown task of toy 'u'"),
        ('Need(JobKey(key.scale, "nobody", "b", "t", 0))', "unknown method 'nobody'"),
        ('Need(JobKey("paper", "toy", "b", "t", 0))', "a need stays within its scale"),
        ('Need(JobKey(key.scale, "toy", "b", "t", -1))', "seed -1 of toy/b/t is negative"),
    ],
)
def test_needs_that_cannot_be_met_are_named(rooms, need, reason):
    body = f'def needs(self, key, config):\n    return {{"x": {need}}} if key.arm == "a" else {{}}\n'
    rooms.write("toy", rooms.adapter("toy", body, arms=AB))
    assert reason in planned().broken["toy"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def needs(self, key, config):\n    return 1 / 0\n", "ZeroDivisionError"),
        ("def stages(self, arm):\n    return ()\n", "must be some of"),
        ('def stages(self, arm):\n    return ("analyse", "train")\n', "in that order"),
        ('def stages(self, arm):\n    return ("trian",)\n', "must be some of"),
        ("from methods.toy import idea\n", "idea.py cannot be parsed"),
    ],
)
def test_what_breaks_in_a_room_leaves_the_others(rooms, body, reason):
    """Among them a module with a syntax error that planning reads and does not import."""
    text = rooms.adapter("toy", body if body.startswith("def") else "def later(self):\n    " + body)
    rooms.write("toy", text, idea="def f(:\n")
    rooms.write("other")
    found = planned()
    assert found.methods == ["other"] and reason in found.broken["toy"] and "\n" not in found.broken["toy"]


def test_who_needs_a_broken_method_is_left_out_too(rooms):
    body = 'def needs(self, key, config):\n    return {"x": Need(JobKey(key.scale, "zbad", "one", "t", 0))}\n'
    rooms.write("user", rooms.adapter("user", body))
    rooms.write("zbad", "import no_such_module\n")
    rooms.write("other")
    found = planned()
    assert found.methods == ["other"] and set(found.broken) == {"user", "zbad"}
    assert "method 'zbad' cannot be loaded" in found.broken["user"]


def test_an_arm_may_not_take_the_name_of_the_synthesis(rooms):
    arms = '{"synthesis": Arm("x")}'
    text = rooms.adapter("toy", SYNTHESIS, arms=arms).replace('tasks = {"t"', 'tasks = {"all"')
    rooms.write("toy", text)
    assert "is the name of the synthesis" in planned().broken["toy"]


def test_names_that_are_no_folder_are_refused(rooms):
    rooms.write("toy", rooms.adapter("toy", arms='{"../x": Arm("x")}'))
    assert "arm '../x' cannot name a folder" in planned().broken["toy"]


def test_nothing_to_do_is_an_empty_plan(toy):
    assert planned(arms=[]).jobs == {} and planned(arms=[]).processes == []


@pytest.mark.parametrize(
    ("seeds", "spelt"), [([3], "3"), ([0, 1], "0to1"), ([4, 2, 0, 1], "0to2-4"), (list(range(500)), "0to499")]
)
def test_seeds_are_spelt_short_enough_for_a_file_name(toys, seeds, spelt):
    methods = {"toy": {"arms": ["steep"], "seeds": seeds}}
    found = plan(load_settings({"scale": "smoke", "only": ["toy"], "methods": methods}))
    assert next(process for process in found.processes if process.arm == "steep").seeds == spelt
