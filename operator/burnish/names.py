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

LABEL = "label"
"""Name of the array in a dataset that holds the labels."""

NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""DNS-1035 label: `metadata.name` becomes the name of a Service."""
