"""The public resource and the records that steps exchange, as pydantic models: the single source of the CRD and its documentation."""
