"""The names that other systems see: API group, record versions, model names in the measuring server. Written once, here."""

from typing import Literal

GROUP = "burnish.dev"
VERSION = "v1alpha1"
KIND = "OptimizedModel"
PLURAL = "optimizedmodels"
SHORT_NAME = "om"
API_VERSION = f"{GROUP}/{VERSION}"

CONTRACT_VERSION: Literal[1] = 1
"""Version of the request, the records and the result that steps exchange (`burnish.api.job_contract`)."""

METHOD_VERSION = 2
"""Version of the measuring method; part of the measurement key, so that a better method measures again."""

BASELINE = "baseline"
"""Name of the baseline in records and in the measuring server's model repository."""

LOCAL_CLUSTER = "local"
"""Cluster part of the store's layout where there is no cluster."""

LABEL = "label"
"""Name of the array in a dataset that holds the labels."""

SIGNED_DECIMAL_PATTERN = r"^-?[0-9]+(\.[0-9]+)?$"
DECIMAL_PATTERN = r"^[0-9]+(\.[0-9]+)?$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1035 label: `metadata.name` becomes the name of a Service."""

# --- on a cluster -----------------------------------------------------------------------------------------------------------------------

FIELD_MANAGER = "burnish"
"""Owner of the fields that the controller applies."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "burnish"
MANAGED_SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
"""Selects our children in lists and watches."""
LABEL_MODEL = f"{GROUP}/model"
"""Name of the OptimizedModel, on every child."""
LABEL_TARGET = f"{GROUP}/target"
LABEL_COMPONENT = f"{GROUP}/component"
"""resolve, pipeline or server; Service selectors always carry it, so that they never match a Job's pods."""
LABEL_REVISION = f"{GROUP}/revision"
LABEL_EPOCH = f"{GROUP}/epoch"
"""Of a Deployment: the renderer that made it. One of another epoch is scaled or deleted, never rendered again."""
LABEL_HARDWARE_CLASS = f"{GROUP}/hardware-class"
"""Of a node, set by its admin: clusters of mixed CPUs pin artifacts to the class they were measured on."""
EPOCH = "1"

STEP_WITH_NEWS = "train"
"""The step that takes hours: what its log says last stands in the status."""

COMPONENT_RESOLVE = "resolve"
COMPONENT_PIPELINE = "pipeline"
COMPONENT_SERVER = "server"

ANNOTATION_REQUEST = f"{GROUP}/request"
"""Of a Job's pod: what it shall do (`job_contract.JobRequest`), mounted as a file through the downward API."""

ANNOTATION_SPEC = f"{GROUP}/spec"
"""Of an object that follows the settings: hash of the spec it was made with; the apiserver's own copy has defaults filled in."""

HTTP_PORT, GRPC_PORT, METRICS_PORT, PROBE_PORT = 8000, 8001, 8002, 8008
"""Of a serving pod; the first three are Triton's own defaults."""


def resolve_job(model: str, run_key: str) -> str:
    """Name of the resolve Job of one run."""
    return f"{model}-resolve-{run_key[:10]}"


def pipeline_job(model: str, target: str, run_key: str) -> str:
    """Name of a target's pipeline Job of one run; its hash is shorter than that of a resolve Job, so a target may be named `resolve`."""
    return f"{model}-{target}-{run_key[:8]}"


def deployment(model: str, target: str, revision: str) -> str:
    """Name of a revision's Deployment."""
    return f"{model}-{target}-{revision}"


def service(model: str, target: str) -> str:
    """Name of the Service of one target; that of the primary's has the model's own name."""
    return f"{model}-{target}"
