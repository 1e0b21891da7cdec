"""The file with the settings of alerts, and the addresses in their messages."""

import os
from pathlib import Path

from ml_platform.alerts.messages import Addresses
from ml_platform.alerts.settings import AlertSettings
from resources.addresses import address, redirect_target, stored_address
from resources.home import Home
from resources.profiles import REPOSITORY

FILE_VARIABLE = "ML_PLATFORM_ALERTS"
"""Environment variable that names another file than `alerts.yaml` of the project, for example in production."""

DEFAULT_FILE = "alerts.yaml"
LOG_NAME = "alerts.jsonl"


def settings_file() -> Path:
    """Return the file with the settings of alerts."""
    return Path(os.environ.get(FILE_VARIABLE) or REPOSITORY / DEFAULT_FILE)


def alert_log(home: Home) -> Path:
    """Return the file of the receiver `log`."""
    return home.logs / LOG_NAME


def home_page() -> str:
    """Return the link to the open alerts on the home page."""
    return f"{stored_address('reports')}/#alerts"


def message_addresses(settings: AlertSettings) -> Addresses:
    """Return the addresses of links and runbooks as they are now."""
    runbooks = settings.runbooks or f"{address('reports')}/docs/runbooks"
    return Addresses(
        of_link=lambda link: redirect_target(link) or link,
        of_runbook=lambda page: f"{runbooks.rstrip('/')}/{page}",
    )
