"""The running platform with keys and TLS, as `up` starts it: keys of the state store count within seconds."""

import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from ml_platform.serving.certificates import self_signed_pair
from ml_platform.serving.client_keys import Client, NewKey, add_client, revoke_keys
from ml_platform.serving.processes import serve_temporarily
from ml_platform_tests.polling import until
from ml_platform_tests.serving.plans import plan_in
from ml_platform_tests.serving.test_grpc_bridge import is_ready

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_key_is_valid_soon_after_it_was_made_and_no_longer_soon_after_it_was_revoked(tmp_path: Path) -> None:
    certificate, private_key = self_signed_pair(tmp_path / "tls", ["127.0.0.1"], datetime.now(UTC))
    plan = plan_in(tmp_path, keys=True, certificate=certificate, private_key=private_key, workers=2, grpc=True)
    state = plan.open_state()
    state.migrate()
    trusting = ssl.create_default_context(cafile=str(certificate))
    with serve_temporarily(plan) as url, httpx.Client(base_url=url, verify=trusting, timeout=20) as client:
        assert url.startswith("https://")
        key = NewKey.make()
        sent = {"x-api-key": key.text}
        assert client.get("/unknown", headers=sent).status_code == 401
        add_client(state, Client(name="app"), key, datetime.now(UTC))
        until(lambda: client.get("/unknown", headers=sent).status_code == 404)
        with triton.InferenceServerClient(
            url.removeprefix("https://"), ssl=True, root_certificates=str(certificate)
        ) as own:
            until(lambda: is_ready(own))
            for headers, status in ((sent, "NOT_FOUND"), (None, "UNAUTHENTICATED")):
                with pytest.raises(InferenceServerException, match=status):
                    own.is_model_ready("nobody", headers=headers)
        # A rate is that of the client, whichever of the gateway's workers has its connections.
        slow = NewKey.make()
        add_client(state, Client(name="slow", requests_per_second=1, burst=5), slow, datetime.now(UTC))
        until(lambda: client.get("/unknown", headers={"x-api-key": slow.text}).status_code == 429)
        began, passed = time.monotonic(), 0
        for _ in range(4):
            with httpx.Client(base_url=url, verify=trusting, timeout=20) as other:
                passed += sum(
                    other.get("/unknown", headers={"x-api-key": slow.text}).status_code == 404 for _ in range(5)
                )
        assert passed <= time.monotonic() - began + 1
        revoke_keys(state, "app", datetime.now(UTC))
        started = time.monotonic()
        until(lambda: client.get("/unknown", headers=sent).status_code == 401)
        seconds = time.monotonic() - started
        assert client.get("/ready").status_code == 200
    # Two seconds on a machine that does nothing else.
    assert seconds < 10
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert tmp_path / "logs" / "access_watch.err.log" in written
    assert not [file for file in written if key.text.encode() in file.read_bytes()]
