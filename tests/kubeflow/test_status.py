"""How runs are read, from what a real server answered."""

import datetime
import json
from typing import Any

import kfp_server_api
import pytest

from kubeflow import status
from pipeline import journal
from tests.kubeflow.api import ANSWERS

NODES = [
    "UpToDate",
    "ImageExampleGen",
    "StatisticsGen",
    "AcceptedData",
    "SchemaGen",
    "ExampleValidator",
    "DataGate",
    "Transform",
    "Trainer",
    "Resolver",
    "Evaluator",
    "ServingCheck",
    "Pusher",
]
NOW = datetime.datetime(2026, 11, 25, 8, 48, tzinfo=datetime.UTC)


def recorded(name: str, model: str = "V2beta1Run") -> Any:
    class Response:
        data = (ANSWERS / f"{name}.json").read_text()

    return kfp_server_api.ApiClient().deserialize(Response, model)


def spec() -> dict[str, Any]:
    versions = json.loads((ANSWERS / "pipeline_versions.json").read_text())["pipeline_versions"]
    return versions[0]["pipeline_spec"]["pipeline_spec"]


def states(name: str) -> dict[str, tuple[str, float | None]]:
    found = status.task_states(recorded(name), status.nodes_of(spec()), NOW)
    assert [one.node for one in found] == NODES
    return {one.node: (one.state, one.seconds) for one in found}


def test_nodes_stand_in_the_pipeline_s_order() -> None:
    assert list(status.nodes_of(spec()).values()) == [(node,) for node in NODES]


def test_a_run_that_did_well_is_a_line_a_task_with_its_driver_s_time() -> None:
    found = states("run_succeeded")
    assert status.run_state(recorded("run_succeeded")) == "done"
    assert {state for state, _ in found.values()} == {"done"}
    # From the driver's start, 08:33:32, to the task's end, 08:34:47.
    assert found["Trainer"] == ("done", 75.0)
    assert found["Pusher"] == ("done", 31.0)


def test_what_comes_after_a_failure_is_skipped() -> None:
    found = states("run_failed_in_trainer")
    assert status.run_state(recorded("run_failed_in_trainer")) == "failed"
    assert found["Trainer"] == ("failed", 71.0)
    assert {node for node, (state, _) in found.items() if state == "done"} == set(NODES[:8])
    assert {node: one for node, one in found.items() if one == ("skipped", None)}.keys() == set(NODES[9:])


def test_a_run_in_the_middle_counts_on_and_knows_what_waits() -> None:
    found = states("run_running")
    assert status.run_state(recorded("run_running")) == "running"
    assert found["UpToDate"] == ("done", 41.0)
    assert found["ImageExampleGen"] == ("running", 47.0)
    assert {found[node] for node in NODES[2:]} == {("waiting", None)}


def test_a_night_without_work_skips_all() -> None:
    found = states("run_nothing_to_do")
    assert found["UpToDate"] == ("done", 31.0)
    assert {found[node] for node in NODES[1:]} == {("skipped", None)}


def test_a_cancelled_run_is_called_so_though_the_server_says_failed() -> None:
    run = recorded("run_terminated")
    assert run.state == "FAILED"
    assert status.run_state(run) == "cancelled"
    found = states("run_terminated")
    assert found["UpToDate"] == ("cancelled", 30.0)
    assert {found[node] for node in NODES[1:]} == {("skipped", None)}


def test_what_runs_for_ever_after_its_workflow_was_deleted_is_shown_as_the_server_says() -> None:
    run = recorded("run_whose_workflow_was_deleted")
    assert not status.is_finished(run)
    assert status.run_state(run) == "running"
    assert states("run_whose_workflow_was_deleted")["UpToDate"][0] == "done"


@pytest.mark.parametrize("name", ["run_succeeded", "run_failed_in_trainer", "run_running", "run_terminated"])
def test_the_order_of_the_answer_changes_nothing(name: str) -> None:
    run = recorded(name)
    nodes = status.nodes_of(spec())
    found = status.task_states(run, nodes, NOW)
    run.run_details.task_details.reverse()
    assert status.task_states(run, nodes, NOW) == found
    run.run_details.task_details.sort(key=lambda one: one.display_name or "")
    assert status.task_states(run, nodes, NOW) == found


def test_a_run_of_which_nothing_began_has_no_tasks() -> None:
    run = kfp_server_api.V2beta1Run(state="FAILED")
    assert {one.state for one in status.task_states(run, status.nodes_of(spec()), NOW)} == {"skipped"}


def test_a_cancelled_run_that_was_gone_on_with_and_failed_has_failed() -> None:
    states = ["PENDING", "RUNNING", "CANCELING", "FAILED", "RUNNING", "FAILED"]
    history = [kfp_server_api.V2beta1RuntimeStatus(state=state) for state in states]
    assert status.run_state(kfp_server_api.V2beta1Run(state="FAILED", state_history=history)) == "failed"
    assert status.run_state(kfp_server_api.V2beta1Run(state="FAILED", state_history=history[:4])) == "cancelled"


def detail(name: str, state: str | None) -> Any:
    return kfp_server_api.V2beta1PipelineTaskDetail(display_name=name, state=state, start_time=NOW, end_time=NOW)


@pytest.mark.parametrize(
    ("details", "state"),
    [
        ({"trainer": "SUCCEEDED", "trainer(0)": "FAILED", "trainer(1)": "SUCCEEDED"}, "done"),
        ({"trainer": "RUNNING", "trainer(0)": "FAILED", "trainer(1)": "RUNNING"}, "running"),
        ({"trainer": "FAILED", "trainer(0)": "FAILED", "trainer(1)": "FAILED"}, "failed"),
        # Where Argo has no wrapper around the attempts, the last one counts.
        ({"trainer(0)": "FAILED", "trainer(10)": "SUCCEEDED", "trainer(2)": "FAILED"}, "done"),
        ({"trainer": "SUCCEEDED", "trainer-driver(0)": "FAILED", "trainer-driver(1)": "SUCCEEDED"}, "done"),
        ({"trainer-driver": "FAILED", "trainer-driver(0)": "FAILED"}, "failed"),
        ({"trainer-driver": "PENDING"}, "running"),
        ({}, "waiting"),
    ],
)
def test_of_several_attempts_the_one_that_counts_is_shown(details: dict[str, str], state: str) -> None:
    listed = [detail(name, said) for name, said in details.items()]
    run = kfp_server_api.V2beta1Run(state="RUNNING", run_details=kfp_server_api.V2beta1RunDetails(task_details=listed))
    (found,) = status.task_states(run, {"trainer": ("Trainer",)}, NOW)
    assert found.state == state


def test_a_run_that_was_gone_on_with_began_anew() -> None:
    history = [
        kfp_server_api.V2beta1RuntimeStatus(state=state, update_time=NOW + datetime.timedelta(minutes=minute))
        for minute, state in enumerate([None, "PENDING", "RUNNING", "FAILED", "RUNNING", "FAILED"])
    ]
    assert status.newest_try(kfp_server_api.V2beta1Run(state_history=history)) == NOW + datetime.timedelta(minutes=4)


def of_group(state: str, **records: str) -> dict[str, tuple[str, float | None]]:
    states = [status.TaskState("UpToDate", "done", 3.0, "uptodate")]
    states += [status.TaskState(node, state, None, "group") for node in "ABC"]
    told = {node: journal.NodeRecord(state=record, seconds=5.0) for node, record in records.items()}
    return {one.node: (one.state, one.seconds) for one in status.told_apart(states, told)}


@pytest.mark.parametrize(
    ("state", "records", "expected"),
    [
        ("waiting", {}, ["waiting", "waiting", "waiting"]),
        ("running", {}, ["running", "waiting", "waiting"]),
        ("running", {"A": "cached", "B": "failed"}, ["cached", "running", "waiting"]),
        ("running", {"A": "done", "B": "done", "C": "done"}, ["done", "done", "done"]),
        ("failed", {"A": "done", "B": "failed"}, ["done", "failed", "skipped"]),
        ("cancelled", {"A": "done"}, ["done", "cancelled", "skipped"]),
        # Its pod failed when all was done, e.g. while Kubeflow took the outputs.
        ("failed", {"A": "done", "B": "done", "C": "done"}, ["done", "done", "failed"]),
        ("skipped", {}, ["skipped", "skipped", "skipped"]),
        ("done", {}, ["done", "done", "done"]),
    ],
)
def test_nodes_that_share_a_task_are_told_apart(state: str, records: dict[str, str], expected: list[str]) -> None:
    found = of_group(state, **records)
    assert [found[node][0] for node in "ABC"] == expected
    assert found["UpToDate"] == ("done", 3.0)
    assert [found[node][1] for node, record in records.items() if found[node][0] == record != "failed"] == [
        5.0 for node, record in records.items() if found[node][0] == record != "failed"
    ]


def test_a_task_of_one_node_fares_as_the_server_says() -> None:
    state = status.TaskState("Trainer", "failed", 9.0, "trainer")
    assert status.told_apart([state], {"Trainer": journal.NodeRecord(state="done", seconds=5.0)}) == [state]
