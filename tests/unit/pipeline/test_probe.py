"""The probe's judgement: what it reads, what it calls right, and what follows for startup, readiness and liveness. The real server: tests/integration."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from burnish.api.messages import decode as decode_message
from burnish.errors import Reason
from burnish.measurement import equivalence, tensors
from burnish.pipeline import pairs, probe
from burnish.plugins.base import DataType, Signature, Tensor

NUMPY_TYPES = [kind for kind in DataType if kind is not DataType.BYTES]


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    return probe.Health(clock)


def golden(directory: Path, **outputs: np.ndarray) -> dict[str, probe.Values]:
    pairs.save_pair(directory / "golden.npz", {"x": np.zeros((1, 2), np.float32)}, outputs)
    return probe.load_answer(directory / "golden.npz")


def wire(**outputs: np.ndarray) -> dict[str, tuple[str, memoryview]]:
    """Outputs as Triton sends them."""
    return {name: (tensors.data_type(array).value, memoryview(tensors.to_bytes(array))) for name, array in outputs.items()}


# --- reading ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NUMPY_TYPES)
def test_answer_is_read_as_numpy_reads_it_and_as_triton_sends_it(tmp_path, kind):
    array = np.array([[0, 1, 2], [3, 100, 1]]).astype(kind.numpy_name)
    expected = golden(tmp_path, y=array)["y"]
    assert list(expected) == array.ravel().tolist()
    assert list(probe.decode(kind.value, tensors.to_bytes(array))) == array.ravel().tolist()


def test_answer_of_text_is_read(tmp_path):
    array = np.array([["ä", ""], ["long text", "b"]], dtype=object)
    assert golden(tmp_path, y=array)["y"] == ["ä", "", "long text", "b"]
    assert probe.decode("BYTES", tensors.to_bytes(array)) == ["ä", "", "long text", "b"]


def test_answer_of_empty_texts_keeps_their_number(tmp_path):
    assert golden(tmp_path, y=np.array(["", ""], dtype=object))["y"] == ["", ""]


@pytest.mark.parametrize("array", [np.float32(3).reshape(()), np.zeros((0, 4), np.float32), np.zeros((2, 1, 1), np.int64)])
def test_answer_of_any_rank_is_read_flat(tmp_path, array):
    assert list(golden(tmp_path, y=array)["y"]) == array.ravel().tolist()


def test_answer_holds_outputs_only_by_their_names(tmp_path):
    assert set(golden(tmp_path, **{"a/b:c": np.zeros(1), "d.npy": np.zeros(1)})) == {"a/b:c", "d.npy"}


def test_answer_of_a_type_that_cant_be_compared_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "golden.npz", "w") as archive, archive.open("output:y.npy", "w") as file:
        np.lib.format.write_array(file, np.zeros(2, complex))
    with pytest.raises(ValueError, match="c16"):
        probe.load_answer(tmp_path / "golden.npz")


def test_answer_stored_by_columns_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "golden.npz", "w") as archive, archive.open("output:y.npy", "w") as file:
        np.lib.format.write_array(file, np.asfortranarray(np.arange(6).reshape(2, 3)))
    with pytest.raises(ValueError, match="column"):
        probe.load_answer(tmp_path / "golden.npz")


def test_request_asks_for_binary_answers_and_says_whose_it_is(tmp_path):
    signature = Signature(
        inputs=(Tensor(name="x", data_type=DataType.FP32, shape=(-1, 2)),), outputs=(Tensor(name="y", data_type=DataType.FP32, shape=(-1, 2)),)
    )
    array = np.array([[1, 2]], np.float32)
    path = tmp_path / "golden.request"
    path.write_bytes(pairs.request_body({"x": array}, signature))
    body, length = probe.load_request(path)
    described = json.loads(body[:length])
    assert described["parameters"] == {"binary_data_output": True}
    assert described["id"] == probe.REQUEST_ID
    assert [tensor["name"] for tensor in described["inputs"]] == ["x"]
    assert body[length:] == array.tobytes()


def test_a_tensor_that_is_cut_off_is_no_tensor():
    with pytest.raises(ValueError, match="cut off"):
        probe.decode("BYTES", b"\x01\x00\x00\x00a\x05")
    with pytest.raises(ValueError, match="multiple"):
        probe.decode("FP32", b"\x00\x00\x00\x00\x00")


# --- comparing --------------------------------------------------------------------------------------------------------------------------


def test_bound_is_that_of_every_preserving_step():
    assert (probe.RELATIVE, probe.ABSOLUTE) == (equivalence.RELATIVE_TOLERANCE, equivalence.ABSOLUTE_TOLERANCE)


@pytest.mark.parametrize(
    ("wanted", "got", "is_right"),
    [
        ([1.0, -100.0], [1.0, -100.0], True),
        ([1.0, -100.0], [1.09, -100.09], True),  # 1e-3 of the largest is 0.1
        ([1.0, -100.0], [1.2, -100.0], False),
        ([0.0, 0.0], [0.0, 9e-6], True),
        ([0.0, 0.0], [0.0, 2e-5], False),
        ([1.0, float("inf")], [1.0, float("inf")], True),
        ([1.0, float("inf")], [1.0, float("-inf")], False),
        ([1.0, float("nan")], [1.0, float("nan")], True),
        ([1.0, 2.0], [1.0, float("nan")], False),
        ([1.0, 2.0], [1.0, float("inf")], False),
        ([1.0, float("nan")], [1.0, 2.0], False),
        ([1.0, 2.0], [1.0], False),
        ([], [], True),
    ],
)
def test_floats_are_right_within_the_bound(tmp_path, wanted, got, is_right):
    found = probe.Comparison(golden(tmp_path, y=np.array(wanted, np.float32))).difference(wire(y=np.array(got, np.float32)))
    assert (found == "") is is_right, found


@pytest.mark.parametrize("dtype", [np.int8, np.int64, bool, object])
def test_everything_else_is_right_when_equal(tmp_path, dtype):
    wanted = np.array(["a", "bc"], object) if dtype is object else np.array([1, 0], dtype)
    wrong = np.array(["a", "bd"], object) if dtype is object else np.array([1, 1], dtype)
    comparison = probe.Comparison(golden(tmp_path, y=wanted))
    assert comparison.difference(wire(y=wanted)) == ""
    assert "'y'" in comparison.difference(wire(y=wrong))
    assert comparison.difference(wire(y=wanted)) == ""


def test_an_output_that_is_missing_or_wrong_is_named(tmp_path):
    comparison = probe.Comparison(golden(tmp_path, a=np.zeros(2, np.float32), b=np.array([5, 6])))
    right = {"a": np.zeros(2, np.float32), "b": np.array([5, 6])}
    assert comparison.difference(wire(**right)) == ""
    assert comparison.difference(wire(a=right["a"])) == "output 'b' is missing"
    assert "output 'a' holds 3 where the build had 0" in comparison.difference(wire(**right | {"a": np.array([0, 3], np.float32)}))


def test_bytes_that_were_right_under_another_name_or_type_are_looked_at(tmp_path):
    comparison = probe.Comparison(golden(tmp_path, a=np.array([1], np.int32), b=np.array([2], np.int32)))
    a, b = np.array([1], np.int32), np.array([2], np.int32)
    assert comparison.difference(wire(a=a, b=b)) == ""
    assert comparison.difference(wire(a=b, b=a)) != ""
    assert comparison.difference(wire(a=a.astype(np.int64), b=b)) == ""  # the same number
    assert comparison.difference({"a": ("INT8", memoryview(a.tobytes())), "b": ("INT32", memoryview(b.tobytes()))}) != ""


@given(npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=5), elements=st.floats(-1e6, 1e6, width=32)), st.floats(-0.01, 0.01))
def test_bound_agrees_with_the_measurements_own(reference, error):
    other = (reference + np.float32(error) * np.abs(reference).max(initial=0)).astype(np.float32)
    theirs = equivalence.preserving_violation(equivalence.compare({"y": reference.reshape(1, -1)}, {"y": other.reshape(1, -1)}))
    largest = float(np.abs(reference).max(initial=0))
    distance = np.abs(reference.astype(np.float64) - other).max(initial=0)
    if abs(distance - (probe.RELATIVE * largest + probe.ABSOLUTE)) < 1e-6 * max(largest, 1):  # rounding decides
        return
    assert bool(probe.difference("y", reference.ravel().tolist(), other.ravel().tolist())) == bool(theirs)


# --- what follows -----------------------------------------------------------------------------------------------------------------------


def told(health):
    return health.started, health.is_ready, health.is_live


def test_a_server_that_has_not_answered_is_live_and_nothing_else(health, clock):
    assert told(health) == (False, False, True)
    health.down()
    health.failed("HTTP 400: no such model", None)
    health.silent(None)
    assert told(health) == (False, False, True)
    clock.now += probe.STARTUP_S
    assert told(health) == (False, False, False)


def test_a_right_answer_makes_it_started_and_ready_for_a_while(health, clock):
    health.right()
    assert told(health) == (True, True, True)
    clock.now += probe.STALE_S + probe.TIMEOUT_S
    assert told(health)[:2] == (True, False)


def test_a_wrong_answer_takes_it_out_and_restarts_nothing(health, clock):
    health.right()
    health.wrong("output 'y' differs")
    assert told(health) == (True, False, True)
    clock.now += 10 * probe.STARTUP_S
    assert told(health) == (True, False, True)
    health.right()
    assert told(health) == (True, True, True)
    assert (health.answers, health.wrong_answers, health.wrong_in_a_row) == (3, 1, 0)


def test_a_server_that_was_never_right_is_not_restarted_for_it(health, clock):
    health.wrong("output 'y' differs")
    clock.now += 10 * probe.STARTUP_S
    assert told(health) == (False, False, True)


def test_backend_errors_in_a_row_end_it(health):
    health.right()
    health.failed("HTTP 500: Stub process is not healthy", 7)  # 7 are more than were known
    assert told(health) == (True, True, True)
    for _ in range(probe.ERRORS_IN_A_ROW - 1):
        health.failed("HTTP 500: Stub process is not healthy", 7)
        assert told(health) == (True, False, True)
    health.failed("HTTP 500: Stub process is not healthy", 7)
    assert told(health) == (True, False, False)


def test_backend_errors_of_a_server_that_answers_others_end_nothing(health, clock):
    health.right()
    for counter in range(100):
        health.failed("HTTP 500: Failed to increase the shared memory pool size", counter)
        clock.now += 5
        assert told(health) == (True, True, True)


def test_overload_neither_restarts_nor_takes_out(health, clock):
    health.right()
    for counter in range(100):
        clock.now += probe.TIMEOUT_S + 2
        health.silent(counter)
        assert told(health) == (True, True, True)


def test_silence_ends_it_only_when_nobody_is_answered(health, clock):
    health.right()
    health.silent(40)
    clock.now += probe.STALE_S
    health.silent(40)
    assert told(health) == (True, False, True)
    clock.now += probe.SILENCE_S - probe.STALE_S
    assert told(health) == (True, False, False)
    health.silent(41)
    assert told(health) == (True, True, True)


def test_silence_of_a_server_whose_counter_is_silent_too_ends_it(health, clock):
    health.right()
    clock.now += probe.SILENCE_S
    health.silent(None)
    assert told(health) == (True, False, False)


def test_a_server_that_ended_is_judged_anew_when_it_comes_up(health, clock):
    """Else the one that the kubelet starts after a failed liveness probe would inherit the verdict, and never live to load its model."""
    health.right()
    for _ in range(probe.ERRORS_IN_A_ROW + 1):
        health.failed("HTTP 500: Stub process is not healthy", 7)
    assert told(health) == (True, False, False)
    health.down()
    assert told(health) == (False, False, True)
    clock.now += probe.SILENCE_S + 1
    health.down()
    assert told(health) == (False, False, True)
    health.silent(None)
    assert told(health) == (False, False, True)
    health.right()
    assert told(health) == (True, True, True)


def test_a_port_that_stays_closed_ends_it_at_last(health, clock):
    health.right()
    for _ in range(100):
        health.down()
        clock.now += probe.STARTUP_S / 100
    assert told(health) == (False, False, False)


# --- answering --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def url(health):
    server = probe.serve(health, "digits", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_answers_are_http_codes_with_the_state_as_text(url, health):
    assert [ask(f"{url}/{path}")[0] for path in ("startup", "ready", "live", "status", "metrics", "nothing")] == [503, 503, 200, 200, 200, 404]
    health.right()
    assert [ask(f"{url}/{path}")[0] for path in ("startup", "ready", "live")] == [200, 200, 200]
    health.wrong('output "y" differs')
    code, text = ask(f"{url}/ready")
    assert code == 503
    assert json.loads(text) == {
        "state": "WrongAnswer", "reason": "WrongAnswer", "text": 'output "y" differs', "started": True, "ready": False, "live": True
    }  # fmt: skip


def test_answers_come_over_both_families_of_addresses(url):
    port = url.rpartition(":")[2]
    try:
        assert ask(f"http://[::1]:{port}/live")[0] == 200
    except urllib.error.URLError:
        pytest.skip("this machine has no IPv6")


def test_metrics_tell_what_part_of_tritons_is_ours(url, health):
    health.requests = 4
    health.right()
    health.right()
    health.wrong("x")
    health.failed("HTTP 500", None)
    lines = [line for line in ask(f"{url}/metrics")[1].splitlines() if not line.startswith("#")]
    assert lines == [
        'burnish_probe_requests_total{model="digits"} 4',
        'burnish_probe_answers_total{model="digits"} 3',
        'burnish_probe_wrong_answers_total{model="digits"} 1',
        'burnish_probe_failures_total{model="digits"} 1',
        'burnish_probe_right{model="digits"} 0',
    ]


def test_counter_is_read_for_the_one_model():
    text = (
        "# HELP nv_inference_request_success Number of successful inference requests\n"
        'nv_inference_request_success{model="digits",version="1"} 12\n'
        'nv_inference_request_success{model="digits-more",version="1"} 100\n'
        'nv_inference_request_success{model="digits",version="2"} 3\n'
    )
    assert [(name, int(count)) for name, count in probe._SUCCESS.findall(text)] == [("digits", 12), ("digits-more", 100), ("digits", 3)]


def test_message_of_a_wrong_answer_is_one_that_the_controller_reads(tmp_path):
    probe.leave_message(tmp_path / "log", "output 'y' holds 3 where the build had 0")
    failure = decode_message((tmp_path / "log").read_text()).failure
    assert (failure.step, failure.reason, failure.retriable) == ("probe", Reason.WrongAnswer, False)
    assert "holds 3 where the build had 0" in failure.message


def test_probe_needs_nothing_but_the_standard_library():
    done = subprocess.run([sys.executable, "-I", "-S", probe.__file__, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "/startup" in done.stdout
