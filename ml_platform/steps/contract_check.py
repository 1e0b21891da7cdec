"""Before a version serves: its bento's contract is compared with that of the version that serves.

The asset `bento` shows the result as a check, and the rollout refuses a version with changes that nobody intended.
"""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ml_platform.serving.contract_changes import (
    ContractChange,
    ContractSettings,
    IncompatibleContractError,
    contract_changes,
    unintended,
)
from ml_platform.serving.desired_state import DesiredState, ServedVersion, all_desired_states
from ml_platform.serving.request_contract import RequestContract
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.tasks.catalog import as_task
from ml_platform.tasks.task import Task

CONTRACT_CHANGE = "contract_change"
"""Kind of the audit records of intended changes that break apps."""

NO_STABLE = "No version serves yet."


@dataclass(frozen=True)
class ContractComparison:
    """The contract of a bento beside that of the stable version, which has the number ``stable``.

    ``refused`` are the changes that break apps, and ``intended`` those that the declaration allows. ``note`` is the
    reason for no comparison; there are no changes then.
    """

    refused: list[ContractChange]
    intended: list[ContractChange]
    stable: str = ""
    note: str = ""

    @property
    def text(self) -> str:
        """One sentence about the result, for the check."""
        if self.note:
            return self.note
        intended = f"; intended: {', '.join(each.place for each in self.intended)}" if self.intended else ""
        return f"Compatible with version {self.stable}{intended}."


def compare_contract(
    name: str, served: ServedVersion, stores: PlatformStores, settings: ContractSettings
) -> ContractComparison:
    """Return the comparison of the bento ``served`` with the stable version of the model ``name``.

    Without a stable version, and when its bento cannot be read, there is nothing to compare with.
    """
    stable = all_desired_states(stores.state).readable.get(name, DesiredState()).stable
    if stable is None:
        return ContractComparison([], [], note=NO_STABLE)
    try:
        before = _contract_of(stores.home.bentos / stable.bento)
    except (OSError, ValueError, KeyError) as error:
        # The text of an OSError has the path of the home.
        cause = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        note = f"Not compared: the bento of version {stable.version} cannot be read ({cause})."
        return ContractComparison([], [], stable.version, note)
    after = _contract_of(stores.home.bentos / served.bento)
    changes = contract_changes(before[0], after[0], before[1], after[1])
    refused = unintended(changes, settings)
    return ContractComparison(refused, [each for each in changes if each not in refused], stable.version)


def require_compatible(name: str, version: str, found: ContractComparison) -> None:
    """Raise :class:`IncompatibleContractError` for changes that nobody intended."""
    if found.refused:
        subject = f"Contract of '{name}', version {version} after {found.stable}"
        raise IncompatibleContractError(subject, found.refused)


def record_intended_changes(
    name: str,
    version: str,
    found: ContractComparison,
    stores: PlatformStores,
    settings: ContractSettings,
    *,
    by: str,
    at: datetime,
) -> None:
    """Record the changes that break apps and were let through, each with its reason; without one, do nothing."""
    if found.intended:
        changes = [asdict(each) | {"reason": settings.allow_breaking[each.place]} for each in found.intended]
        facts = {"model": name, "version": version, "stable": found.stable, "changes": changes}
        stores.audit.append(CONTRACT_CHANGE, actor=by, at=at, facts=facts)


def _contract_of(bento: Path) -> tuple[RequestContract, Task]:
    folder = bento / "src" / "model"
    described = json.loads((folder / "model.json").read_text())
    return RequestContract.model_validate_json((folder / "contract.json").read_text()), as_task(described["task"])
