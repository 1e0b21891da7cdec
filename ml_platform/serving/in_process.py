"""A served model in this process: the same rows give the same answers as the endpoint, without a network."""

import os
import re
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import orjson
import polars as pl

from ml_platform.data.source_hash import source_hash
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.stores import open_store
from ml_platform.serving.bento_digest import require_unchanged
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.desired_state import DesiredState, ServedVersion, all_desired_states
from ml_platform.serving.in_process_log import ROLE, InProcessLog
from ml_platform.serving.request_contract import ReasonMethod, RequestContract
from ml_platform.serving.verified_bentos import all_verified_bentos
from ml_platform.state.store import StateStore

if TYPE_CHECKING:
    import pandas as pd

    from bento.predictor import Predictor

Table = TypeVar("Table", pl.DataFrame, "pd.DataFrame")

HOME_VARIABLE, DEFAULT_HOME = "ML_PLATFORM_HOME", ".ml_platform"
ONLINE_VARIABLE = "ML_PLATFORM_ONLINE"
"""Address of the online store, in place of the folder of the home."""

STATE_VARIABLE = "ML_PLATFORM_STATE"
"""Address of the state store, in place of the database of the home."""

PROFILE_VARIABLE = "ML_PLATFORM_PROFILE"


_HASH = re.compile(r"[0-9a-f]{12}")


class ServedModelError(PlatformError):
    """Raised when a model is not served, or was built from other code than that of this process."""


class ServedModel:
    """One version of a model, with the features of the online store."""

    def __init__(self, name: str, version: str, predictor: "Predictor", directory: Path) -> None:
        self.name, self.version, self.predictor, self.directory = name, version, predictor, directory
        self._log: InProcessLog | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the rest of the prediction log; the end of the process does it, too."""
        if self._log is not None:
            self._log.close()

    @classmethod
    def load(
        cls, model: str, home: Path | str | None = None, version: str | int | None = None, *, log: bool = False
    ) -> Self:
        """Return ``version`` of ``model`` in ``home``; None: the stable version of its endpoint.

        With ``log``, its answers go to the prediction log of the home: those of the stable version as such, so they
        count in its performance, and those of another version under the role ``in_process``.

        Raises :class:`ServedModelError` when the home serves no such model or has no bento of the version, when a
        request view of the model has other code here, or when only the settings of a profile name the stores. Raises
        :class:`~ml_platform.serving.bento_signature.ChangedBentoError` when its bento was changed. Raises the errors of
        the state store and of a model directory.
        """
        root = Path(home or os.environ.get(HOME_VARIABLE, DEFAULT_HOME)).resolve()
        state = _state_of(root)
        loaded = cls.in_home(model, root, state, version)
        if log:
            stable = all_desired_states(state).readable.get(model, DesiredState()).stable
            loaded._log = InProcessLog(
                root / "serving" / "predictions" / model,
                model,
                loaded.version,
                role="stable" if stable is not None and stable.version == loaded.version else ROLE,
                contract=loaded.contract,
                pii_key=root / "serving" / "pii.key",
            )
        return loaded

    @classmethod
    def in_home(
        cls,
        model: str,
        root: Path,
        state: StateStore,
        version: str | int | None = None,
        *,
        online: str = "",
        require_code: bool = True,
    ) -> Self:
        """Return ``version`` of ``model`` in the home ``root`` with the state store ``state``, as :meth:`load`.

        ``online`` is the location of the online store; by default that of the environment, or the folder of the home.
        Without ``require_code``, a caller calls :meth:`require_same_code` before it sends requests.
        """
        served = _stable_version(state, model, root) if version is None else _packaged_version(state, model, version)
        bento = root / "bentos" / served.bento
        require_unchanged(bento, SigningKeys(root / "signing").trusted)
        return cls.of_directory(
            model,
            served.version,
            bento / "src" / "model",
            online or os.environ.get(ONLINE_VARIABLE) or str(root / "online"),
            require_code=require_code,
        )

    @property
    def contract(self) -> RequestContract:
        """The fields of a row, their types, rules and limits."""
        return self.predictor.contract

    @classmethod
    def of_directory(cls, name: str, version: str, model_dir: Path, online: str, *, require_code: bool = True) -> Self:
        """Return the model in ``model_dir``, which reads its features from the online store at ``online``.

        For ``require_code`` see :meth:`in_home`.
        """
        from bento.predictor import Predictor

        predictor = Predictor(model_dir, open_store(online))
        loaded = cls(name, version, predictor, model_dir)
        if require_code:
            loaded.require_same_code()
        return loaded

    def require_same_code(self) -> None:
        """Raise :class:`ServedModelError` for a request view whose function changed since the version was built."""
        _require_same_code(self.name, self.version, self.predictor.features)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], *, reasons: int = 0, reasons_method: ReasonMethod | None = None
    ) -> list[dict[str, Any]]:
        """Return the answer for each of ``rows`` as the endpoint gives it, with up to ``reasons`` reasons.

        ``reasons_method`` prefers a method for the reasons; None: as the endpoint chooses.
        Times are text with an offset, or aware datetimes. Raises
        :class:`~ml_platform.serving.request_contract.InvalidRequestError` for rows that the endpoint refuses, and the
        errors of the online store.
        """
        limit = self.predictor.contract.max_rows
        return [
            answer
            for start in range(0, len(rows), limit)
            for answer in self._predict(rows[start : start + limit], reasons, reasons_method)
        ]

    def predict_table(self, rows: Table) -> Table:
        """Return the answers for the table ``rows``, of Polars or pandas, as a table of the same kind and height.

        ``rows`` has a column for each request field; other columns are left out. The answers have the columns
        ``score``, ``label``, those of the task such as ``probabilities``, and ``degraded``: whether the answer rests on
        less than usual (:meth:`predict` says on what). Raises as :meth:`predict`.
        """
        columns = [name for name in self.predictor.contract.dtypes if name in rows.columns]
        chosen = rows[columns]
        frame = chosen if isinstance(chosen, pl.DataFrame) else pl.from_pandas(chosen)
        answers = [{**answer, "degraded": "degraded" in answer} for answer in self.predict(frame.to_dicts())]
        found = pl.DataFrame(answers, infer_schema_length=None)
        return found if isinstance(chosen, pl.DataFrame) else found.to_pandas()

    def _predict(
        self, rows: Sequence[Mapping[str, Any]], reasons: int, method: ReasonMethod | None
    ) -> list[dict[str, Any]]:
        from bento.reasons import RequestedReasons

        started, now = time.perf_counter(), datetime.now(UTC)
        request = self.predictor.contract.validate(request_body(rows))
        prediction = self.predictor.predict(request, now)
        answers = self.predictor.answers(prediction, RequestedReasons(reasons, method) if reasons else None)
        if self._log is not None:
            self._log.write(request, prediction, now, started)
        return answers


def _state_of(root: Path) -> StateStore:
    """Return the state store that the environment names, or that of the home ``root``."""
    if os.environ.get(STATE_VARIABLE):
        return StateStore.at(f"${STATE_VARIABLE}")
    profile = os.environ.get(PROFILE_VARIABLE) or "local"
    if profile != "local":
        raise ServedModelError(
            f"{PROFILE_VARIABLE}={profile}",
            expected=f"the stores of the profile in {STATE_VARIABLE} and {ONLINE_VARIABLE}",
            found=f"no {STATE_VARIABLE}",
            fix="Use a session, `ml_platform.open()`, which reads the settings of the profile, or set both variables.",
        )
    return StateStore.in_folder(root)


def _stable_version(state: StateStore, model: str, root: Path) -> ServedVersion:
    desired = all_desired_states(state).readable
    stable = desired[model].stable if model in desired else None
    if stable is None:
        served = [name for name, one in desired.items() if one.stable is not None]
        raise ServedModelError(
            f"Model '{model}' in {root}",
            expected="a served model",
            found=f"{', '.join(served) or 'none'} served there",
            fix=f"Promote a version and materialize {model}/rollout, or set {HOME_VARIABLE}."
            f"{did_you_mean(model, served)}",
        )
    return stable


def _packaged_version(state: StateStore, model: str, version: str | int) -> ServedVersion:
    packaged = {each.version: each.folder for each in all_verified_bentos(state) if each.model == model}
    if str(version) not in packaged:
        raise ServedModelError(
            f"Version {version} of model '{model}'",
            expected="a version with a verified bento",
            found=f"such versions: {listed(packaged)}",
            fix=f"Materialize {model}/bento for it, or load one of these.",
        )
    return ServedVersion(version=str(version), bento=packaged[str(version)])


def request_body(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the body of a request for ``rows``, whose values may be those of Python for the types of the contract."""
    return orjson.dumps({"rows": list(map(dict, rows))}, default=_json_value)


def _json_value(value: Any) -> Any:
    """Return a duration in seconds, bytes in base64, and a decimal or another value that JSON lacks as text."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def _require_same_code(name: str, version: str, features: FeatureSet) -> None:
    """Raise :class:`ServedModelError` for a request view whose function changed since the version was built."""
    for view in features.views:
        if view.kind != "request" or view.fitted is not None:
            continue
        built, here = view.code_version.partition("-")[0], source_hash(view.function)
        # A version that the team wrote by hand says nothing about the code.
        if _HASH.fullmatch(built) and built != here:
            raise ServedModelError(
                f"Version {version} of model '{name}', request view '{view.name}'",
                expected=f"the code with which it was built, {built}",
                found=f"{here} in this process",
                fix="Call the endpoint, which runs the code of its bento, or check out the commit of the version.",
            )
