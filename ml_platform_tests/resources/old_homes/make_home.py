"""Makes the fixture homes: a small real home with the code of an earlier release, as an archive with its description.

`python make_home.py COMMIT NAME` writes `NAME.tar.xz` (the home) and `NAME.json` (what the old code reads from it). The
paths inside the home stay those of the folder where it was made, as in a home that was moved.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[2]
MONTHS = ("2013-01", "2013-02", "2013-03", "2013-04")
PER_DAY = 8
DOMAIN = "shops"
OLD_NAMES = {
    "known_upfront": "beforehand",
    "available_from": "revealed",
    "request_only": "schedule_only",
    "metric_limit": "floor",
}
"""Names in the declarations of version 0.1.0 by those of now."""

TRAINING_CYCLE = " or ".join(
    f'key:"late/{name}"' for name in ("candidate_lightgbm", "evaluation", "model_card", "champion", "bento", "rollout")
)

MONITORING = 'key:"late/predictions" or key:"late/outcomes" or key:"late/candidate_lightgbm"'
"""Predictions and outcomes, with a second version that no gate has seen."""

DROPPED = ("logs", "reports", "run", "dagster/logs", "dagster/storage", "dagster/.logs_queue")
"""Files that a migration does not read, left out of the archive."""

DESCRIBE = """
import json, os, sys
from pathlib import Path
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import Lake
root = Path(sys.argv[1])
lake = Lake(str(root / "lake"))
tables = {}
for log in sorted((root / "lake").rglob("_delta_log")):
    name = log.parent.relative_to(root / "lake").as_posix()
    versions = {}
    for version in range(lake.version(name) + 1):
        names = lake.partitions(name, version) or [None]
        versions[version] = {
            each or "": content_hash(
                lake.scan(name, version, None if each is None else [each]).drop("partition", strict=False).collect()
            )
            for each in names
        }
    tables[name] = {
        "version": lake.version(name),
        "digests": {key or "": digest for key, digest in lake.digests(name).items()},
        "versions": versions,
    }
print(json.dumps({"tables": tables}))
"""


def main(commit: str, name: str) -> None:
    """Make the archive and the description ``name`` with the code of ``commit``."""
    with _code_of(commit) as code, tempfile.TemporaryDirectory(prefix="old-home-") as made:
        home = Path(made) / "home"
        _land(home, MONTHS)
        old = not (code / "resources" / "home_version.py").exists()
        _put_domain(code, old)
        run = _Runner(code, home)
        run.materialize('key:"datasets/*" or key:"features/*" or key:"late/training_set"', "2013-01...2013-04")
        run.materialize(TRAINING_CYCLE, "2013-03")
        # A corrected file gives the tables a second version of one partition; the champion's version stays pinned.
        _land_corrected(home)
        run.materialize('key:"datasets/*" or key:"features/*"', "2013-04")
        run.log_predictions()
        run.materialize(MONITORING, "2013-04")
        run.set_cursor()
        description = {"commit": commit, "made_at": made, **json.loads(run.python("-c", DESCRIBE, str(home)))}
        description["status"] = json.loads(run.platform("status", "--json"))
        description["history"] = json.loads(run.platform("history", "late", "--json"))
        (FOLDER / f"{name}.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
        _archive(home, FOLDER / f"{name}.tar.xz")


class _Runner:
    """Runs commands of the old code on the home."""

    def __init__(self, code: Path, home: Path) -> None:
        self.code, self.home = code, home

    def python(self, *arguments: str) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.code),
            "ML_PLATFORM_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=self.code, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{arguments[:4]}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def platform(self, *arguments: str) -> str:
        return self.python("-m", "ml_platform.cli", *arguments)

    def materialize(self, selection: str, months: str) -> None:
        print(self.platform("materialize", "--select", selection, "--partitions", months), flush=True)

    def log_predictions(self) -> None:
        """Write two log files as a service does: deliveries of April, of which one request has two rows."""
        folder = self.home / "serving" / "predictions" / "late"
        folder.mkdir(parents=True, exist_ok=True)
        rows = _rows("2013-04")
        version = json.loads(self.platform("status", "--json"))["models"]["late"]["champion"]["version"]
        for part, chosen in enumerate((rows[:6], rows[6:9])):
            lines = [self._line(version, f"request-{part}-{n // 2}", n % 2, row) for n, row in enumerate(chosen)]
            (folder / f"{version}-20130401T080000-7-{part + 1:05d}.jsonl").write_text("".join(lines))

    def set_cursor(self) -> None:
        """Evaluate the landing sensor as the daemon does, and store its cursor in the Dagster instance."""
        print(self.python(str(FOLDER / "store_cursor.py"), str(self.home)), flush=True)

    @staticmethod
    def _line(version: str, request: str, row: int, delivery: dict[str, str]) -> str:
        at = datetime.fromisoformat(delivery["ordered_at"])
        return (
            json.dumps(
                {
                    "request_id": request,
                    "row": row,
                    "model": "late",
                    "version": str(version),
                    "role": "stable",
                    "predict_at": at.isoformat(),
                    "as_of": at.isoformat(),
                    "logged_at": (at + timedelta(seconds=1)).isoformat(),
                    "watermarks": {},
                    "ages": {},
                    "request": {name: delivery[name] for name in ("shop", "ordered_at")}
                    | {"distance": float(delivery["distance"])},
                    "features": {"shops__last_late": None, "order__distance": float(delivery["distance"])},
                    "score": 0.25,
                    "label": 0,
                }
            )
            + "\n"
        )


@contextmanager
def _code_of(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="old-code-") as folder:
        code = Path(folder) / "code"
        code.mkdir()
        archive = subprocess.run(["git", "-C", str(REPOSITORY), "archive", commit], capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive.stdout, check=True)
        yield code


def _put_domain(code: Path, old: bool) -> None:
    """Replace the domains of the old code by the domain of the fixture."""
    for each in (code / "assets").iterdir():
        if each.is_dir():
            shutil.rmtree(each)
    declared = (FOLDER / "domain" / "defs.yaml").read_text()
    for new, name in OLD_NAMES.items() if old else ():
        declared = declared.replace(new, name)
    folder = code / "assets" / DOMAIN
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "defs.yaml").write_text(declared)
    shutil.copy(FOLDER / "domain" / "late_deliveries.py", code / "assets")


def _rows(month: str) -> list[dict[str, str]]:
    generator = random.Random(month)
    rows = []
    for number in range(28 * PER_DAY):
        distance, shop = generator.gauss(0, 1), generator.randrange(3)
        at = datetime.fromisoformat(f"{month}-01T08:00:00+00:00") + timedelta(
            days=number // PER_DAY, hours=number % PER_DAY
        )
        late = generator.random() < 1 / (1 + 2.718 ** -(4 * distance + shop - 1))
        rows.append(
            {
                "delivery": f"{month}-{number:04}",
                "shop": f"s{shop}",
                "distance": f"{distance:.3f}",
                "ordered_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
                "came_at": f"{at + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
                "late": str(int(late)),
            }
        )
    return rows


def _land(home: Path, months: tuple[str, ...], rows: dict[str, list[dict[str, str]]] | None = None) -> None:
    folder = home / "landing" / "deliveries"
    folder.mkdir(parents=True, exist_ok=True)
    for month in months:
        chosen = (rows or {}).get(month) or _rows(month)
        text = "\n".join([",".join(chosen[0]), *(",".join(row.values()) for row in chosen)]) + "\n"
        (folder / f"{month}.csv").write_text(text)


def _land_corrected(home: Path) -> None:
    rows = _rows("2013-04")
    rows[-1]["late"] = str(1 - int(rows[-1]["late"]))
    _land(home, ("2013-04",), {"2013-04": rows})


def _archive(home: Path, target: Path) -> None:
    for name in DROPPED:
        path = home / name
        if path.is_dir():
            shutil.rmtree(path)
    for database in home.rglob("*.db"):
        _hide_checkout(database)
    with tarfile.open(target, "w:xz", preset=9) as archive:
        archive.add(home, arcname="home")
    print(f"{target.name}: {target.stat().st_size} bytes")


def _hide_checkout(database: Path) -> None:
    """Replace the folder of this checkout in all texts of ``database``: it says nothing about a home."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in connection.execute(f"PRAGMA table_info('{table}')").fetchall():
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, \'/srv/checkout\') '
                    f'WHERE typeof("{column}") = \'text\' AND instr("{column}", ?)',
                    (str(REPOSITORY), str(REPOSITORY)),
                )
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("VACUUM")


if __name__ == "__main__":
    main(*sys.argv[1:])
