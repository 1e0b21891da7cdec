"""Answers with a declared constant for models without a healthy version.

Run as `python -m ml_platform.serving.constant_server PLAN PORT_FILE`. One process does so for all models of a home. It
loads no model, so what stops those does not stop it. Requests are checked by the contract of the bento, and each answer
says ``"degraded": {"fallback": true}``. No model made these answers, so they are not in a prediction log, whose scores
are monitored; the metrics count them.
"""

import json
import logging
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from bento.service_socket import bound_socket
from ml_platform.data.atomic import write_json
from ml_platform.serving.bento_digest import MODEL_FOLDER
from ml_platform.serving.openapi import MAX_REQUEST_ID_LENGTH, NDJSON
from ml_platform.serving.request_contract import InvalidRequestError, RequestContract
from ml_platform.tasks.catalog import as_task

logger = logging.getLogger("reconcile")

PLAN_FILE = "constants.json"
JSON, TEXT = b"application/json", b"text/plain; charset=utf-8"

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class ConstantAnswers(BaseModel):
    """The constant of one model, with all that an answer needs: the bento may be damaged when it is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bento: str = Field(description="Folder of the bento in whose place it is answered.")
    version: str = Field(description="Version of the model.")
    contract: dict[str, Any] = Field(description="Contract that a request must satisfy.")
    row: dict[str, Any] = Field(description="Answer for each row.")

    @classmethod
    def of(cls, bento: Path, version: str, score: float) -> Self:
        """Return the answers with ``score`` in place of ``bento``. Raises OSError or ValueError for a damaged one."""
        folder = bento / "src" / MODEL_FOLDER
        description = json.loads((folder / "model.json").read_bytes())
        task, prediction = as_task(description["task"]), np.array([score])
        threshold = float(description["threshold"]) if task.has_threshold else None
        (label,) = task.labels(prediction, threshold)
        (details,) = task.answer_details(prediction, None) or [{}]
        row = {"score": score, "label": label, **details, "degraded": {"fallback": True}}
        contract = json.loads((folder / "contract.json").read_bytes())
        return cls(bento=str(bento), version=version, contract=contract, row=row)


def write_constants(file: Path, wanted: Mapping[str, tuple[Path, str, float]]) -> None:
    """Write the plan of the server: for each model the bento, the version and the score. No change: nothing happens."""
    before = _read_plan(file) if file.exists() else {}
    plan = {}
    for model, (bento, version, score) in sorted(wanted.items()):
        known = before.get(model)
        if known is not None and (known.bento, known.version, known.row["score"]) == (str(bento), version, score):
            plan[model] = known
            continue
        try:
            plan[model] = ConstantAnswers.of(bento, version, score)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("no constant for %s: %s", model, error)
    if plan != before:
        write_json(file, {model: each.model_dump() for model, each in plan.items()})


class ConstantApp:
    """ASGI application that answers by the plan in ``file``, which may be replaced at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: Counter[str] = Counter()
        self._contracts: dict[str, RequestContract] = {}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        body = await _body(receive)
        status, media_type, content = self._answer(scope, dict(scope["headers"]), body)
        headers = [(b"content-type", media_type), (b"content-length", str(len(content)).encode())]
        headers += [(b"retry-after", b"1")] if status == 503 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(
        self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes], body: bytes
    ) -> tuple[int, bytes, bytes]:
        """Return status, media type and body of the answer to a request."""
        path = scope["path"]
        if path == "/readyz":
            return 200, TEXT, b"ready\n"
        if path == "/metrics":
            lines = [f'ml_platform_constant_rows_total{{model="{name}"}} {rows}' for name, rows in self._rows.items()]
            return 200, TEXT, ("# TYPE ml_platform_constant_rows_total counter\n" + "\n".join(lines) + "\n").encode()
        request_id = headers.get(b"x-request-id", b"")[:MAX_REQUEST_ID_LENGTH].decode("latin1") or uuid.uuid4().hex
        model = path.removeprefix("/v1/").removesuffix("/predict")
        is_lines = headers.get(b"content-type", b"").lower().startswith(NDJSON.encode())
        plan = _read_plan(self._file)
        if scope["method"] != "POST" or path != f"/v1/{model}/predict" or is_lines or model not in plan:
            message = "No version of the model is healthy; only predictions of the rows of a JSON request go on."
            error = {"status": 503, "reason": "unavailable", "message": message, "details": []}
            return 503, JSON, orjson.dumps({"error": error, "request_id": request_id})
        try:
            rows = len(self._contract(plan[model]).validate(body).rows)
        except InvalidRequestError as error:
            return error.status, JSON, orjson.dumps({**error.to_dict(), "request_id": request_id})
        self._rows[model] += rows
        name = {"name": model, "version": plan[model].version}
        content = {"predictions": [plan[model].row] * rows, "model": name, "request_id": request_id}
        return 200, JSON, orjson.dumps(content)

    def _contract(self, answers: ConstantAnswers) -> RequestContract:
        if answers.bento not in self._contracts:
            self._contracts[answers.bento] = RequestContract.model_validate(answers.contract)
        return self._contracts[answers.bento]


def main(plan_file: Path, port_file: Path) -> None:
    """Serve the plan in ``plan_file`` on a free local port, whose number is written to ``port_file``."""
    import uvicorn

    listener = bound_socket(port_file)
    staged = port_file.with_suffix(".new")
    staged.write_text(str(listener.getsockname()[1]))
    staged.replace(port_file)
    config = uvicorn.Config(ConstantApp(plan_file), log_level="warning", access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


async def _body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _read_plan(file: Path) -> dict[str, ConstantAnswers]:
    return {model: ConstantAnswers(**each) for model, each in json.loads(file.read_bytes()).items()}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
