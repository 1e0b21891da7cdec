"""Command-line arguments: the accepted forms, and the error message for every other."""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import assets
from ml_platform.cli import main
from ml_platform.console.arguments import ArgumentError, domain_module, only_domain, parse_instant

ROW = (
    '{"carrier": "UA", "flight": 1, "tailnum": null, "origin": "EWR", "dest": "IAH", '
    '"scheduled_departure": "2013-07-01T06:15:00-04:00", "scheduled_arrival": "2013-07-01T08:30:00-05:00"}'
)
BY = ("--by", "ada", "--reason", "seen")


def test_instant_without_offset_is_rejected() -> None:
    assert parse_instant("2013-07-01T06:00:00-04:00") == datetime(2013, 7, 1, 10, tzinfo=UTC)
    with pytest.raises(ArgumentError, match=r"without offset.*2013-07-01T00:00:00\+00:00 is UTC"):
        parse_instant("2013-07-01")
    with pytest.raises(ArgumentError, match="found text in another form"):
        parse_instant("yesterday")


def test_unknown_domain_is_rejected_with_a_list_of_valid_domains() -> None:
    assert domain_module("aviation", "demo").MODEL == "departure_risk"
    with pytest.raises(ArgumentError, match=r"found no folder assets/avation\. .*Did you mean 'aviation'"):
        domain_module("avation", "demo")
    with pytest.raises(ArgumentError, match=r"found no file assets/aviation/nothing\.py"):
        domain_module("aviation", "nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("land", "avation", "--through", "2013-06"), "Domain 'avation': .*Did you mean 'aviation'"),
        (("land", "aviation", "--through", "2013-6"), "expected a month from 2013-01 to 2013-12, found 2013-6"),
        (("land", "aviation", "--through", "2014-01"), "expected a month from 2013-01 to 2013-12, found 2014-01"),
        (("demo", "../x"), r"Domain '\.\./x': .*no folder"),
        (("materialize", "--select", "key:(((", "-p", "2013-06"), "found text that Dagster cannot parse"),
        (("materialize", "--select", 'key:"[/no]"', "-p", "2013-06"), r"Selection 'key:\"\[/no\]\"': .*found none"),
        (("materialize", "--select", "group:departure_risk", "-p", "junk"), "Partition 'junk': expected a month"),
        (("history", "departure_risk", "--at", "junk"), "Instant 'junk'"),
        (("history", "depature_risk"), "Model 'depature_risk': .*Did you mean 'departure_risk'"),
        (("report", "--model", "nobody", "--partition", "2013-06", "--metrics", "m", "--plots", "p"), "Model 'nobody'"),
        (
            ("report", "--model", "departure_risk", "--partition", "2013-06", "--metrics", "m", "--plots", "p"),
            "expected a recorded verdict, found none",
        ),
        (("approve", "departure_risk", "7", *BY), "expected a version 7, found versions none"),
        (("rollback", "departure_risk", *BY), "expected an earlier champion"),
        (("leak-check", "nobody", "--partition", "2013-06"), "Model 'nobody'"),
        (("leak-check", "departure_risk", "--partition", "June"), "Partition 'June'"),
        (("features", "show", "departure_risk", "--row", "{broken"), "body: expected JSON"),
        (("features", "show", "departure_risk", "--row", "{}"), r"rows\[0\].carrier: .*missing"),
        (("features", "show", "departure_risk", "--row", ROW, "--as-of", "2013-07-01"), "without offset"),
        (("features", "show", "departure_risk", "--row", ROW), "Materialize features/"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_bad_argument_ends_in_one_message_and_exit_code_1(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))  # set by the command, restored after the test
    monkeypatch.setattr(sys, "argv", ["ml-platform", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capfd.readouterr().err
    assert ended.value.code == 1
    assert "Traceback" not in printed
    errors = [line for line in printed.splitlines() if line.startswith("✗")]
    assert len(errors) == 1
    assert re.search(message, errors[0])


def test_error_names_a_home_that_cannot_be_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(sys, "argv", ["ml-platform", "status"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "expected a writable folder, found Not a directory" in capfd.readouterr().err


def test_domain_may_be_left_out_where_only_one_declares_a_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "__path__", [str(tmp_path)])
    for file in ("shop/demo.py", "shop/landing.py", "bank/landing.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert only_domain("demo") == "shop"
    with pytest.raises(ArgumentError, match=r"found 'bank', 'shop'\. Name the domain"):
        only_domain("landing")


def test_domain_must_be_named_where_none_or_several_have_the_module() -> None:
    with pytest.raises(ArgumentError, match=r"one domain with a module 'unknown', found none\. Write assets"):
        only_domain("unknown")
    with pytest.raises(ArgumentError, match=r"found .*'aviation'.*Name the domain\."):
        only_domain("__init__")
