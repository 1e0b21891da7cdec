"""Starts the host of several bentos: `python -m ml_platform.serving.host_server FOLDER LOG_FILE`.

FOLDER has the plan of the host. Its code is copied from the first bento of the plan whose files did not change since
they were verified, so that the host needs no bento that is replaced later.
"""

import os
import shutil
import sys
from pathlib import Path

from bento.host_plan import PLAN_FILE, HostPlan
from ml_platform.data.atomic import publish_directory
from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import PlatformError
from ml_platform.serving.bento_digest import ChangedBentoError, code_digest, code_files, require_unchanged
from ml_platform.serving.smoke_test import bento_code_environment

HOST = "bento.host"
CODE_FOLDER = "code"


def main(folder: Path, log_file: Path) -> None:
    """Replace this process by the host of the plan in ``folder``, and send its output to ``log_file``.

    A host without an unchanged bento does not start: the error of each bento is in the log.
    """
    plan = HostPlan.model_validate_json((folder / PLAN_FILE).read_bytes())
    with log_file.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    code = (folder / CODE_FOLDER).resolve()
    copy_code(plan, code)
    arguments = ["-m", HOST, str(folder.resolve())]
    # Put only the bentos' own code on the path: this process was started with the project's code.
    os.chdir(code)
    os.execve(sys.executable, [sys.executable, *arguments], bento_code_environment(code))


def copy_code(plan: HostPlan, target: Path) -> None:
    """Copy the code of ``plan`` to ``target`` from its first unchanged bento.

    Raises :class:`~ml_platform.serving.bento_digest.ChangedBentoError` when there is none.
    """
    problems = []
    for service in plan.services:
        try:
            require_unchanged(service.bento)
            if code_digest(service.bento) != plan.code:
                problems.append(f"{service.bento.name} has other code")
                continue
        except (PlatformError, OSError) as error:
            problems.append(str(error))
            continue
        with scratch_folder("code", target.parent) as staging:
            staged = staging / CODE_FOLDER
            for name, file in code_files(service.bento).items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, staged / name)
            publish_directory(staged, target)
        return
    raise ChangedBentoError(
        f"Host {target.parent.name}",
        expected="a bento with the code that was verified",
        found=" | ".join(problems) or "no bento in its plan",
        fix="Restore the bentos from a backup, or materialize them: they are built and verified again.",
    )


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:3]))
    except PlatformError as error:
        sys.exit(str(error))
