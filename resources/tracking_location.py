"""Where MLflow's store of a home is, and the environment in which MLflow's own client finds the object store."""

import os
from collections.abc import Mapping

from resources.home import Home
from resources.profile import active_profile, locations

OBJECT_STORE_ENVIRONMENT = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "8"}
"""Retries of boto3: a store that is busy answers 503 and is tried again for about a minute."""

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")


def tracking_store(home: Home) -> tuple[str, str]:
    """Return MLflow's address and the place of artifacts of new experiments, under the active profile.

    Under `cluster` the object store's address and credentials are set in the environment of this process, where boto3
    reads them. The address may contain a password.
    """
    found = locations(home)
    if found.lake_options:
        os.environ.update(object_store_environment(found.lake_options))
    return found.tracking, found.artifacts


def shown_tracking_address(home: Home) -> str:
    """Return MLflow's address for a configuration, which the UI shows: empty where it may contain a password."""
    return "" if active_profile() == "cluster" else home.tracking_uri


def object_store_environment(options: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables with which boto3 uses the object store of ``options``."""
    endpoint = options.get("AWS_ENDPOINT_URL")
    return {
        **{name: value for name, value in options.items() if name.startswith("AWS_") and name != "AWS_ALLOW_HTTP"},
        "AWS_DEFAULT_REGION": options["AWS_REGION"],
        **(dict.fromkeys(ENDPOINT_VARIABLES, endpoint) if endpoint else {}),
        **OBJECT_STORE_ENVIRONMENT,
    }
