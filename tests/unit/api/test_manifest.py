"""Wrong manifests and the words they get; every pair in tests/golden/manifest is one row."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.api import manifest, yaml_reader
from burnish.api.v1alpha1.optimized_model import OnInfeasible, OptimizedModel
from burnish.errors import BurnishError, ExitCode, Reason

GOLDEN = Path(__file__).parents[2] / "golden" / "manifest"
EXAMPLES = Path(__file__).parents[3] / "examples"
WRONG = sorted(GOLDEN.glob("*.yaml"))

GOOD = """
apiVersion: burnish.dev/v1alpha1
kind: OptimizedModel
metadata: {name: digits, labels: {team: vision}, resourceVersion: "7"}
spec:
  source: {uri: file:digits.onnx}
  targets:
  - {name: cpu, runtime: ONNXRuntime}
"""


OWN_REASONS = {
    "source-architecture-not-listed": Reason.ArchitectureMismatch,
    "source-not-trusted": Reason.SourceNotTrusted,
    "accuracy-control-on-onnxruntime": Reason.PassNotApplicable,
    "quantize-entropy-on-openvino": Reason.PassNotApplicable,
}
"""What plugins refuse keeps its reason, wherever it is found."""


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_load_tells_field_and_cure_for_every_wrong_manifest(path: Path) -> None:
    with pytest.raises(BurnishError) as caught:
        manifest.load(path)
    assert str(caught.value) + "\n" == path.with_suffix(".txt").read_text()
    assert caught.value.reason is OWN_REASONS.get(path.stem, Reason.InvalidManifest)
    assert caught.value.exit_code is ExitCode.INVALID


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_messages_are_plain_and_free_of_library_talk(path: Path) -> None:
    text = path.with_suffix(".txt").read_text()
    assert not re.search(r"pydantic|https?://(?!example)|type=|Traceback|validation error|Input should|<class|RuntimeName|object at 0x", text)
    assert text.replace("\n", "").isprintable()
    for line in text.splitlines():
        assert len(line) < 700
        assert ": " in line or "…" in line or line.startswith("...") or " holds " in line or " is empty" in line
        assert re.search(r"; |\?$|^\.\.\.", line), f"names no cure: {line}"


def test_golden_pairs_are_complete_and_many() -> None:
    assert {p.stem for p in WRONG} == {p.stem for p in GOLDEN.glob("*.txt")}
    assert len(WRONG) >= 100


def test_load_sets_field_where_only_one_is_wrong() -> None:
    with pytest.raises(BurnishError) as caught:
        manifest.load(GOLDEN / "runtime-misspelt.yaml")
    assert caught.value.field == "spec.targets[0].runtime"
    assert caught.value.message == "'ONNXRuntme' is not one of ONNXRuntime, OpenVINO; did you mean ONNXRuntime?"


def test_loads_fills_in_defaults() -> None:
    model = manifest.loads(GOOD)
    assert model.metadata.namespace == "default"
    assert model.spec.targets[0].resources.cpu == "1"
    assert model.spec.constraints.on_infeasible is OnInfeasible.Fail


def test_loads_takes_json() -> None:
    document = manifest.loads(GOOD).model_dump(mode="json", by_alias=True, exclude_none=True)
    assert manifest.loads(json.dumps(document)) == manifest.loads(GOOD)


@pytest.mark.parametrize(
    ("written", "read"), [("1", "1"), ('"1"', "1"), ("500m", "500m"), ('"0.5"', "0.5"), ("0x2", "2")], ids=["int", "text", "milli", "decimal", "hex"]
)
def test_loads_takes_a_quantity_as_kubernetes_does(written: str, read: str) -> None:
    model = manifest.loads(GOOD.replace("runtime: ONNXRuntime", f"runtime: ONNXRuntime, resources: {{cpu: {written}, memory: 1073741824}}"))
    assert (model.spec.targets[0].resources.cpu, model.spec.targets[0].resources.memory) == (read, "1073741824")


def test_loads_keeps_an_unquoted_date_as_text() -> None:
    """As kubectl does; PyYAML alone would make a date of it."""
    assert manifest.loads(GOOD.replace("digits.onnx}", "digits.onnx, refresh: 2026-11-23}")).spec.source.refresh == "2026-11-23"


def test_loads_takes_empty_optional_fields_as_absent() -> None:
    assert manifest.loads(GOOD + "  passes:\n  constraints:\n  datasets: {calibration: ~}\n") == manifest.loads(GOOD)


def test_loads_ignores_status() -> None:
    assert manifest.loads(GOOD + "status: {phase: Nonsense, foo: [1]}\n") == manifest.loads(GOOD)


def test_loads_resolves_small_anchors() -> None:
    anchored = GOOD.replace("{name: cpu, runtime: ONNXRuntime}", "&a {name: cpu, runtime: ONNXRuntime}\n  - {<<: *a, name: again}")
    assert [t.name for t in manifest.loads(anchored).spec.targets] == ["cpu", "again"]


def test_loads_passes_over_documents_of_other_kinds() -> None:
    other = "apiVersion: v1\nkind: Namespace\nmetadata: {name: models}\n"
    assert manifest.loads(f"---\n{other}---\n{GOOD}---\n---\n{other}") == manifest.loads(GOOD)


def test_load_reads_every_example() -> None:
    paths = sorted(EXAMPLES.glob("*.yaml"))
    assert paths
    for path in paths:
        assert isinstance(manifest.load(path), OptimizedModel)


def test_load_names_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BurnishError, match=r"^nothing\.yaml: no such file; give the path of a manifest"):
        manifest.load(Path("nothing.yaml"))


def test_load_names_a_directory(tmp_path: Path) -> None:
    with pytest.raises(BurnishError, match="is a directory"):
        manifest.load(tmp_path)


def test_load_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07\x12\x8e\xff\xfe")
    with pytest.raises(BurnishError, match=r"byte 3 is not UTF-8 text; is this the manifest, and not the model\?"):
        manifest.load(path)


@pytest.mark.parametrize("content", [b"a" * (yaml_reader.MAX_BYTES + 1), b"\xff" * (8 << 20)], ids=["text", "binary"])
def test_load_refuses_a_file_that_is_too_large(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(content)
    with pytest.raises(BurnishError, match=r"big\.yaml is larger than 1 MiB"):
        manifest.load(path)


def test_load_escapes_a_hostile_file_name(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\u202e.yaml"
    path.write_text("a: [")
    with pytest.raises(BurnishError) as caught:
        manifest.load(path)
    assert "a\\x1b[31m\\u202e.yaml, line 1" in str(caught.value)


def test_bomb_of_long_text_is_refused_without_expanding() -> None:
    started = time.monotonic()
    with pytest.raises(BurnishError, match="aliases expand to more than 4 MiB"):
        manifest.loads(f"a: &a {'x' * 100_000}\nb: &b [{', '.join(['*a'] * 100)}]\nc: [{', '.join(['*b'] * 1000)}]\n")
    assert time.monotonic() - started < 20


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([("spec",), ("spec", "source"), ("spec", "targets"), ("spec", "inputs"), ("metadata",), ("spec", "constraints"), ()]),
)
def test_any_value_anywhere_is_accepted_or_complained_about_in_plain_words(value: object, where: tuple[str, ...]) -> None:
    document = yaml_reader.read(GOOD, "good")[0]
    parent = document
    for key in where[:-1]:
        parent = parent[key]
    if where:
        parent[where[-1]] = value
    else:
        document = value
    try:
        manifest.loads(json.dumps(document))
    except BurnishError as error:
        assert error.reason is Reason.InvalidManifest
        assert str(error).replace("\n", "").isprintable()
        assert not re.search(r"pydantic|type=|Input should", str(error))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_refused_without_a_traceback(text: str) -> None:
    with pytest.raises(BurnishError) as caught:
        manifest.loads(text)
    assert caught.value.reason is Reason.InvalidManifest


SECRET_URI = "https://u:secretpw@h.example/m?sig=hunter2"  # noqa: S105  # made up


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(f'{{uri: "{SECRET_URI}\\n"}}', id="not one line"),
        pytest.param(f'{{uri: "{SECRET_URI}{"x" * 3000}"}}', id="too long"),
        pytest.param('{uri: "\\u0007u:secretpw@h.example/m?sig=hunter2"}', id="no scheme"),
        pytest.param(f'"{SECRET_URI}"', id="not a map"),
        pytest.param(f'{{"{SECRET_URI}": 3}}', id="as a field"),
        pytest.param(f'{{uri: a, format: "{SECRET_URI}"}}', id="in another field"),
        pytest.param(f'{{uri: a, digest: "{SECRET_URI}"}}', id="as a digest"),
        pytest.param(f'{{uri: !!int "{SECRET_URI}"}}', id="as a number"),
    ],
)
def test_loads_never_shows_what_may_be_secret_in_a_uri(source: str) -> None:
    with pytest.raises(BurnishError) as caught:
        manifest.loads(GOOD.replace("{uri: file:digits.onnx}", source))
    assert "source" in str(caught.value) or "h.example" in str(caught.value)
    assert not [secret for secret in ("secretpw", "hunter2", "u:") if secret in str(caught.value)]


@pytest.mark.parametrize(
    ("passes", "datasets", "reason", "field"),
    [
        ("[{type: Quantize, quantize: {mode: Static}}]", "{}", Reason.CalibrationMissing, "spec.targets[0].passes[0].quantize.mode"),
        ("[{type: Quantize}, {type: Quantize}]", "{}", Reason.PassNotApplicable, "spec.targets[0].passes[1]"),
        ("[{type: Quantize, quantize: {mode: Static}}]", "{calibration: {uri: file:c.npz}}", None, ""),
        (
            '[{type: Quantize, quantize: {accuracyControl: {maxDrop: "0.01"}}}]',
            "{calibration: {uri: file:c.npz}}",
            Reason.PassNotApplicable,
            "spec.targets[0].passes[0].quantize.accuracyControl",
        ),
    ],
)
def test_passes_that_the_runtime_can_not_meet_are_refused_with_the_runtimes_reason(
    passes: str, datasets: str, reason: Reason | None, field: str
) -> None:
    text = GOOD.replace("runtime: ONNXRuntime", f"runtime: ONNXRuntime, passes: {passes}") + f"  datasets: {datasets}\n"
    if reason is None:
        manifest.loads(text)
        return
    with pytest.raises(BurnishError) as caught:
        manifest.loads(text)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert caught.value.exit_code is ExitCode.INVALID
