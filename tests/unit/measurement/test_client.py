"""The client over real sockets: answers, errors told apart, connections kept."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from burnish.measurement.client import ModelError, ModelState, RawAnswer, RequestTimeoutError, ServerUnreachableError, TritonClient, decode

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("array", [X, X.astype(np.float16), X > 2, X.astype(np.int64), np.array([["a", "ü€", ""]], dtype=object)])
def test_infer_returns_what_the_model_answers(v2_server, model, array: np.ndarray) -> None:
    v2_server.models["m"] = model()
    found = TritonClient(v2_server.url, 5).infer("m", {"x": array}, ["y"])["y"]
    assert found.shape == array.shape
    expected = array if array.dtype != object else np.array([[t.encode() for t in array[0]]], dtype=object)
    np.testing.assert_array_equal(found, expected)


def test_index_tells_state_and_reason_of_every_model(v2_server, model) -> None:
    v2_server.models["m"] = model()
    index = TritonClient(v2_server.url, 5).repository_index()
    assert index == {"m": ModelState("READY", ""), "broken": ModelState("UNAVAILABLE", "no good"), "never": ModelState("", "")}


def test_statistics_count_what_was_answered(v2_server, model) -> None:
    v2_server.models["m"] = model(fail_after=3)
    client = TritonClient(v2_server.url, 5)
    before = client.statistics("m")
    for _ in range(3):
        client.infer("m", {"x": X})
    with pytest.raises(ModelError):
        client.infer("m", {"x": X})
    added = client.statistics("m").since(before)
    assert (added.success_count, added.fail_count) == (3, 1)


def test_model_error_carries_status_and_the_servers_words_and_keeps_the_connection(v2_server, model) -> None:
    v2_server.models["m"] = model()
    client = TritonClient(v2_server.url, 5)
    with pytest.raises(ModelError, match="unknown model: 'other'") as caught:
        client.infer("other", {"x": X})
    assert caught.value.status == 404
    client.infer("m", {"x": X})
    assert len(v2_server.sockets) == 1


def test_each_thread_has_one_connection_of_its_own(v2_server, model) -> None:
    v2_server.models["m"] = model()
    client = TritonClient(v2_server.url, 5)
    request = client.prepare("m", {"x": X})
    threads = [threading.Thread(target=lambda: [client.send(request) for _ in range(5)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert v2_server.models["m"].count == 15
    assert len(v2_server.sockets) == 3
    client.close()
    client.send(request)
    assert len(v2_server.sockets) == 4


def test_unreachable_server_is_told_from_a_model_error(v2_server, model) -> None:
    v2_server.models["m"] = model()
    client = TritonClient(v2_server.url, 5)
    client.infer("m", {"x": X})
    v2_server.vanish()
    for _ in range(2):  # the cut connection, then no connection at all
        with pytest.raises(ServerUnreachableError):
            client.infer("m", {"x": X})
    assert not client.is_live()
    assert not client.is_ready("m")
    with pytest.raises(ServerUnreachableError):
        client.repository_index()


def test_silence_is_a_timeout_and_the_next_request_gets_a_fresh_connection(v2_server, model) -> None:
    v2_server.models |= {"silent": model(hang_after=0), "m": model()}
    client = TritonClient(v2_server.url, 0.3)
    with pytest.raises(RequestTimeoutError, match=r"silent gave no answer within 0.3 s"):
        client.infer("silent", {"x": X})
    np.testing.assert_array_equal(client.infer("m", {"x": X})["y"], X)


def test_answer_without_its_bytes_is_a_model_error(v2_server, model) -> None:
    """What numpy 2 in Triton's Python stub does: 200, the right shape, nothing in it."""
    v2_server.models["m"] = model(empty=True)
    with pytest.raises(ModelError, match="can't be read"):
        TritonClient(v2_server.url, 5).infer("m", {"x": X})


def test_tensors_sent_as_json_are_read_too() -> None:
    body = b'{"outputs":[{"name":"y","datatype":"INT32","shape":[1,2],"data":[7,8]}]}'
    assert decode(RawAnswer(len(body), body))["y"].tolist() == [[7, 8]]


@pytest.mark.parametrize("body", [b"nonsense", b'{"outputs":[{"name":"y","datatype":"BF16","shape":[1],"parameters":{"binary_data_size":2}}]}__'])
def test_unreadable_answer_is_a_model_error(body: bytes) -> None:
    with pytest.raises(ModelError, match="can't be read"):
        decode(RawAnswer(len(body.rstrip(b"_")), body))
