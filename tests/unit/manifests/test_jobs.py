"""The Jobs of a run: what every one of them must be, whatever the target and the store."""

import pytest
from pydantic import ValidationError

from burnish.api import messages
from burnish.api.job_contract import StepName
from burnish.api.v1alpha1.optimized_model import OptimizedModel
from burnish.errors import StepExit
from burnish.manifests import jobs, serving
from burnish.pipeline import job, probe, pull

RUN = "k" * 32
OPTIMIZERS = {"onnx": "optimizer-onnx:1", "torch": "optimizer-torch:1"}
CASES = ("cpu", "gpu", "volume", "training", "training-gpu")
TRAINING = {"passes": [{"type": "Prune"}], "datasets": {"training": {"uri": "s3://models/training.npz"}}}


@pytest.fixture
def make(make_settings, make_model, make_artifact, gpu, uid):
    """The resolve Job, the pipeline Job and the Deployment of a case."""

    def render(case: str) -> tuple[dict, dict, dict]:
        settings = make_settings(store={"volume": {}}) if case == "volume" else make_settings(images={"optimizers": OPTIMIZERS})
        model = make_model(gpu if "gpu" in case else None, **(TRAINING if "training" in case else {}))
        target = model.spec.primary
        return (
            jobs.build_resolve(model, RUN, settings, uid=uid),
            jobs.build_pipeline(model, target, RUN, settings, uid=uid),
            serving.build_deployment(model, target, make_artifact(), "12345678", 1, settings, uid=uid),
        )

    return render


def pod(owner: dict) -> dict:
    return owner["spec"]["template"]["spec"]


def containers(owner: dict) -> dict[str, dict]:
    return {c["name"]: c for c in (*pod(owner).get("initContainers", ()), *pod(owner)["containers"])}


@pytest.mark.parametrize("case", CASES)
def test_every_container_is_restricted(make, case):
    for owner in make(case):
        assert pod(owner)["securityContext"]["runAsNonRoot"] is True
        assert pod(owner)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod(owner)["automountServiceAccountToken"] is False
        for container in containers(owner).values():
            context = container["securityContext"]
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not {"privileged", "runAsUser"} & set(context)


@pytest.mark.parametrize("case", CASES)
def test_triton_has_the_same_resources_and_node_where_it_measures_and_where_it_serves(make, case):
    _, pipeline, deployment = make(case)
    assert containers(pipeline)["triton"]["resources"] == containers(deployment)["triton"]["resources"]
    for field in ("affinity", "tolerations", "runtimeClassName", "priorityClassName"):
        assert pod(pipeline).get(field) == pod(deployment).get(field)


@pytest.mark.parametrize(("case", "asking"), [("gpu", ["triton"]), ("training-gpu", ["train", "triton"]), ("training", [])])
def test_gpus_are_asked_for_by_the_containers_that_compute_on_them(make, case, asking):
    """`train` has ended when Triton starts, so the pod holds them once: the largest of init containers counts."""
    _, pipeline, deployment = make(case)
    assert [n for n, c in containers(pipeline).items() if "nvidia.com/gpu" in c["resources"]["limits"]] == asking
    assert [n for n, c in containers(deployment).items() if "nvidia.com/gpu" in c["resources"]["limits"]] == asking[-1:]
    for container in (containers(pipeline)[name] for name in asking):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"] == "2"


def test_processes_that_train_on_gpus_meet_in_shared_memory(make):
    mounts = {case: [m["mountPath"] for m in containers(make(case)[1])["train"]["volumeMounts"]] for case in ("training", "training-gpu")}
    assert "/dev/shm" in mounts["training-gpu"]
    assert "/dev/shm" not in mounts["training"]


@pytest.mark.parametrize("case", CASES)
def test_failure_that_trying_again_does_not_cure_ends_the_job_whichever_step_it_is(make, case):
    for made in make(case)[:2]:
        ignore, *rules = made["spec"]["podFailurePolicy"]["rules"]
        assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert [r["onExitCodes"]["containerName"] for r in rules] == [n for n, c in containers(made).items() if c.get("restartPolicy") != "Always"]
        assert all(r["action"] == "FailJob" and int(StepExit.NOT_RETRIABLE) in r["onExitCodes"]["values"] for r in rules)
        assert pod(made)["restartPolicy"] == "Never"  # a podFailurePolicy demands it


def test_deadline_is_the_specs(make_model, settings, uid):
    model = make_model(jobs={"deadline": "90m"})
    for made in (jobs.build_resolve(model, RUN, settings, uid=uid), jobs.build_pipeline(model, model.spec.primary, RUN, settings, uid=uid)):
        assert pod(made)["activeDeadlineSeconds"] == 5400


@pytest.mark.parametrize("case", CASES)
def test_each_writer_of_messages_knows_how_many_containers_share_the_room(make, case):
    resolve, pipeline, deployment = (len(containers(owner)) for owner in make(case))
    assert resolve == job.CONTAINERS[StepName.resolve]
    assert pipeline <= job.PIPELINE_CONTAINERS
    assert deployment == pull.CONTAINERS == probe.CONTAINERS
    for number in (resolve, pipeline, deployment):
        assert messages.budget(number) * number <= 12 * 1024
        assert messages.budget(number) <= 4096


def test_each_job_has_room_for_as_large_a_model_as_the_other(make_model, make_settings, uid):
    """A blob on its way to S3 is a temporary file first: that of the source in the resolve Job, those of the artifacts in the pipeline's."""
    model, settings = make_model(), make_settings(workSize="30Gi")
    for made in (jobs.build_resolve(model, RUN, settings, uid=uid), jobs.build_pipeline(model, model.spec.primary, RUN, settings, uid=uid)):
        volumes = {v["name"]: v for v in made["spec"]["template"]["spec"]["volumes"]}
        assert [volumes[name]["emptyDir"]["sizeLimit"] for name in ("tmp", "work")] == ["30Gi", "30Gi"]


def test_volume_claim_has_no_owner_so_that_artifacts_outlive_the_resource(make_settings):
    claim = jobs.build_prerequisites("models", make_settings(store={"volume": {"size": "7Gi", "storage_class_name": "nfs"}}))[0]
    assert (claim["kind"], claim["metadata"]["name"]) == ("PersistentVolumeClaim", "burnish-store")
    assert "ownerReferences" not in claim["metadata"]
    assert (claim["spec"]["storageClassName"], claim["spec"]["resources"]["requests"]["storage"]) == ("nfs", "7Gi")


def test_volume_is_mounted_where_the_store_is_used_and_nowhere_else(make):
    resolve, pipeline, _ = make("volume")
    found = {n for made in (resolve, pipeline) for n, c in containers(made).items() if "store" in {m["name"] for m in c["volumeMounts"]}}
    assert found == {"resolve", "stage", "publish"}


@pytest.mark.parametrize(
    ("store", "told"), [({"uri": "s3://bucket/prefix"}, {"resolve", "stage", jobs.KEEPER, "publish", "pull"}), ({"volume": {}}, {"resolve"})]
)
def test_proxy_is_known_to_what_reads_sources_or_a_bucket_and_to_nobody_else(make_settings, make_model, make_artifact, uid, store, told):
    proxy = {"https": "http://proxy.example:3128", "no_proxy": ".svc"}
    settings, model = make_settings(store=store, proxy=proxy, images={"optimizers": OPTIMIZERS}), make_model(**TRAINING)
    made = (
        jobs.build_resolve(model, RUN, settings, uid=uid),
        jobs.build_pipeline(model, model.spec.primary, RUN, settings, uid=uid),
        serving.build_deployment(model, model.spec.primary, make_artifact(), "12345678", 1, settings, uid=uid),
    )
    wanted = [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}, {"name": "NO_PROXY", "value": ".svc"}]
    found = {name: [e for e in c.get("env", ()) if "PROXY" in e["name"]] for owner in made for name, c in containers(owner).items()}
    assert {name for name, environment in found.items() if environment == wanted} == told
    assert {name for name, environment in found.items() if environment} == told


@pytest.mark.parametrize("url", ["http://user:hunter2@proxy:3128", "https://proxy:3128", "proxy:3128", "http://proxy/path"])
def test_proxy_without_an_address_or_with_a_password_is_no_setting(make_settings, url):
    with pytest.raises(ValidationError):
        make_settings(proxy={"https": url})


@pytest.mark.parametrize("case", CASES)
def test_every_mount_has_its_volume(make, case):
    for owner in make(case):
        assert {m["name"] for c in containers(owner).values() for m in c["volumeMounts"]} == {v["name"] for v in pod(owner)["volumes"]}


def test_longest_names_are_legal_and_stay_apart(make_model, make_artifact, settings, uid):
    target = "t" * 12
    short = make_model({"name": target})
    model = OptimizedModel.model_validate(short.model_dump() | {"metadata": short.metadata.model_dump() | {"name": "m" * 40}})
    with pytest.raises(ValidationError):
        OptimizedModel.model_validate(short.model_dump() | {"metadata": short.metadata.model_dump() | {"name": "m" * 41}})
    with pytest.raises(ValidationError):
        make_model({"name": target + "t"})
    made = [
        jobs.build_resolve(model, RUN, settings, uid=uid),
        jobs.build_pipeline(model, model.spec.primary, RUN, settings, uid=uid),
        serving.build_deployment(model, model.spec.primary, make_artifact(), "12345678", 1, settings, uid=uid),
        serving.build_service(model, model.spec.primary, "12345678", settings, uid=uid),
    ]
    assert all(len(m["metadata"]["name"]) <= 63 for m in made)
    assert len({m["metadata"]["name"] for m in made}) == len(made)
    assert all(len(v) <= 63 for m in made for v in m["metadata"]["labels"].values())


@pytest.mark.parametrize(
    ("source_format", "image"), [("StateDict", "optimizer-torch:1"), ("ONNX", "optimizer-onnx:1"), ("unknown", "optimizer-onnx:1")]
)
def test_only_the_export_runs_in_the_image_of_the_sources_toolchain(make_settings, make_model, uid, source_format, image):
    settings = make_settings()
    settings = settings.model_copy(
        update={"images": settings.images.model_copy(update={"optimizers": {"onnx": "optimizer-onnx:1", "torch": "optimizer-torch:1"}})}
    )
    model = make_model()
    made = containers(jobs.build_pipeline(model, model.spec.primary, RUN, settings, uid=uid, source_format=source_format))
    assert made["export"]["image"] == image
    assert {made[step]["image"] for step in ("compress", "build", "measure")} == {"optimizer-onnx:1"}


def test_step_that_trains_is_there_where_a_pass_trains_and_holds_no_credentials(make):
    """Beside it a sidecar brings its checkpoints into the store: that one reads the work directory and runs nothing of the model's."""
    assert not {"train", jobs.KEEPER} & set(containers(make("cpu")[1]))
    job_of_training = make("training")[1]
    found = containers(job_of_training)
    names = list(found)
    assert names.index("export") < names.index(jobs.KEEPER) < names.index("train") < names.index("compress")
    assert found["train"]["image"] == OPTIMIZERS["torch"]
    holders = {name for name, c in found.items() if any(m["mountPath"] == "/credentials/store" for m in c["volumeMounts"])}
    assert holders == {"stage", jobs.KEEPER, "publish"}
    assert [m.get("readOnly") for m in found[jobs.KEEPER]["volumeMounts"] if m["mountPath"] == jobs.WORK] == [True]
    writable = [m["mountPath"] for m in found["train"]["volumeMounts"] if not m.get("readOnly")]
    assert writable == ["/tmp", f"{jobs.WORK}/steps/03-train"]
    assert found[jobs.KEEPER]["restartPolicy"] == "Always"


def test_training_data_on_a_volume_is_mounted_for_resolve(make_model, settings, uid):
    model = make_model(passes=[{"type": "Prune"}], datasets={"training": {"uri": "pvc://data/training.npz"}})
    made = jobs.build_resolve(model, RUN, settings, uid=uid)
    assert [v["persistentVolumeClaim"]["claimName"] for v in pod(made)["volumes"] if "persistentVolumeClaim" in v] == ["data"]


def test_students_on_volumes_are_mounted_for_resolve(make_model, settings, uid):
    """Those of spec.passes, and of a target's own."""
    passes = [[{"type": "Distill", "distill": {"student": {"source": {"uri": f"pvc://{claim}/small.onnx"}}}}] for claim in ("students", "own")]
    targets = [{"name": "a", "runtime": "ONNXRuntime"}, {"name": "b", "runtime": "ONNXRuntime", "passes": passes[1]}]
    model = make_model(passes=passes[0], targets=targets, datasets={"training": {"uri": "pvc://data/training.npz"}})
    made = jobs.build_resolve(model, RUN, settings, uid=uid)
    assert [v["persistentVolumeClaim"]["claimName"] for v in pod(made)["volumes"] if "persistentVolumeClaim" in v] == ["data", "students", "own"]


def test_source_on_the_stores_own_volume_is_a_second_mount_of_it(make_model, make_settings, uid):
    """A claim that a pod has under two names is never mounted."""
    model = make_model(
        source={"uri": "pvc://burnish-store/model.onnx"}, datasets={"training": {"uri": "pvc://data/training.npz"}}, passes=[{"type": "Prune"}]
    )
    made = jobs.build_resolve(model, RUN, make_settings(store={"volume": {}}), uid=uid)
    assert [v["persistentVolumeClaim"]["claimName"] for v in pod(made)["volumes"] if "persistentVolumeClaim" in v] == ["burnish-store", "data"]
    (container,) = containers(made).values()
    found = {m["mountPath"]: (m["name"], m.get("readOnly", False)) for m in container["volumeMounts"]}
    assert (found["/store"], found["/sources/burnish-store"]) == (("store", False), ("store", True))
    assert "burnish-store=/sources/burnish-store" in container["command"]
