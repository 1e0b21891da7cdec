"""The processes of `ml-platform up` and of the demo, with their commands, ports and addresses."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_platform.console.gateway_reach import reach
from ml_platform.data.atomic import write_text
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.processes import PLAN_FILE, ProcessPlan, ProcessSpec, free_port
from resources.addresses import LOOPBACK, address, port, port_variable
from resources.gateway_settings import gateway_settings
from resources.home import Home
from resources.profile import ONLINE_VARIABLE, STATE_VARIABLE, active_profile, locations
from resources.tracking_location import object_store_environment

MAX_LOADED_VARIABLE = "ML_PLATFORM_MAX_LOADED"
"""Environment variable with the number of models that a host keeps loaded besides the warm ones; unset: no limit."""

CODE_SERVER_SOCKET, CODE_LOCATION = "code.sock", "ml_platform"
MAX_SOCKET_BYTES = 100


def platform_processes(home: Home, repository: Path, *, headless: bool = False) -> ProcessPlan:
    """Return the plan of `ml-platform up`: gateway and services, webserver, daemon, MLflow and the reports.

    Without people who look, ``headless`` leaves out webserver, MLflow and reports. The code is then loaded once: the
    daemon would load it again every minute, and nobody edits it.
    """
    programs = Path(sys.executable).parent
    web, reports = port("webserver"), port("reports")
    # With the address of a tracking server, the profile has one that runs elsewhere.
    has_own_server = locations(home).tracking.startswith(("http://", "https://"))
    workspace = ["-w", str(repository / "workspace.yaml")]
    plan = _process_plan(
        home,
        port("gateway"),
        [
            ProcessSpec(
                name="webserver",
                command=[
                    *(sys.executable, "-m", "ml_platform.console.webserver", *workspace),
                    *("-h", LOOPBACK, "-p", str(web)),
                ],
                port=web,
                port_setting=port_variable("webserver"),
                address=address("webserver"),
            ),
            ProcessSpec(name="daemon", command=[str(programs / "dagster-daemon"), "run", *workspace]),
            *([] if has_own_server else [_mlflow_process(home, port("mlflow"))]),
            ProcessSpec(
                name="reports",
                # The home page, and the files that metadata of assets links to: Data Docs, drift reports, model cards.
                command=[sys.executable, "-m", "ml_platform.console.site.server", str(reports), str(home.root)],
                port=reports,
                port_setting=port_variable("reports"),
                address=address("reports"),
            ),
        ],
    )
    if headless:
        plan = _without_people(plan, home, repository)
    return plan.model_copy(update=reach(home, gateway_settings()))


def headless_workspace(home: Home, repository: Path) -> Path:
    """Return the workspace file of a headless platform; it names the code server of the run folder.

    The path of a unix socket has at most 107 bytes. In a deeper home, the daemon loads the code itself.
    """
    import yaml

    socket = home.run.resolve() / CODE_SERVER_SOCKET
    if len(bytes(socket)) > MAX_SOCKET_BYTES:
        return repository / "workspace.yaml"
    server = {"socket": str(socket), "location_name": CODE_LOCATION}
    file = home.run / "workspace.yaml"
    write_text(file, yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    return file


def _without_people(plan: ProcessPlan, home: Home, repository: Path) -> ProcessPlan:
    workspace = headless_workspace(home, repository)
    kept = [each for each in plan.processes if each.port is None and each.name != "daemon"]
    programs = Path(sys.executable).parent
    kept.append(ProcessSpec(name="daemon", command=[str(programs / "dagster-daemon"), "run", "-w", str(workspace)]))
    if workspace.parent == home.run:
        # The code server of a killed run leaves its socket.
        (home.run / CODE_SERVER_SOCKET).unlink(missing_ok=True)
        command = [str(programs / "dagster"), "api", "grpc", "--socket", str(home.run.resolve() / CODE_SERVER_SOCKET)]
        command += ["-m", "ml_platform.definitions", "--location-name", CODE_LOCATION]
        kept.append(ProcessSpec(name="code_server", command=command))
    return plan.model_copy(update={"processes": kept})


def serving_processes(home: Home) -> ProcessPlan:
    """Return the plan of the demo: gateway and services only, on a free port, with a separate run folder."""
    plan = _process_plan(home, free_port(), [])
    run = home.run / "demo"
    other = {"run": run, "logs": home.logs / "demo", "processes": [_rollout_guard(run)], "streams": False}
    return plan.model_copy(update=other)


def _process_plan(home: Home, gateway_port: int, processes: Sequence[ProcessSpec]) -> ProcessPlan:
    found = locations(home)
    return ProcessPlan(
        run=home.run,
        logs=home.logs,
        state=_plan_location(found.state, STATE_VARIABLE),
        bentos=home.bentos,
        trusted_keys=SigningKeys(home.signing_keys).trusted,
        online=_plan_location(found.online, ONLINE_VARIABLE),
        predictions=home.prediction_logs,
        pii_key=home.pii_key,
        gateway_port=gateway_port,
        gateway_setting=port_variable("gateway"),
        max_loaded=int(os.environ[MAX_LOADED_VARIABLE]) if os.environ.get(MAX_LOADED_VARIABLE) else None,
        processes=[_rollout_guard(home.run), *processes],
    )


def _plan_location(location: str, variable: str) -> str:
    """Return ``location`` as the file of the plan has it: an address is in the environment, for its password."""
    if "://" not in location:
        return location
    os.environ[variable] = location
    return f"${variable}"


def _mlflow_process(home: Home, number: int) -> ProcessSpec:
    """Return the tracking server; it gets the address of its database, with a password, from its environment."""
    found = locations(home)
    environment = {"MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*,localhost:*"}
    command = [sys.executable, "-m", "mlflow", "server"]
    if active_profile() == "cluster":
        os.environ["MLFLOW_BACKEND_STORE_URI"] = found.tracking
        os.environ.update(object_store_environment(found.lake_options))
        command += ["--artifacts-destination", found.artifacts, "--default-artifact-root", found.artifacts]
    else:
        command += ["--backend-store-uri", home.tracking_uri, "--artifacts-destination", str(home.artifacts)]
    return ProcessSpec(
        name="mlflow",
        command=[*command, "--workers", "1", "--host", LOOPBACK, "--port", str(number)],
        environment=environment,
        port=number,
        port_setting=port_variable("mlflow"),
        address=address("mlflow"),
    )


def _rollout_guard(run: Path) -> ProcessSpec:
    command = [sys.executable, "-m", "ml_platform.steps.rollout_guard", str(run / PLAN_FILE)]
    return ProcessSpec(name="rollout_guard", command=command)
