"""Prints the part of requirements.lock that an image needs: `python runtime_lock.py [PACKAGE …] < requirements.lock`.

With names, it prints these packages and all that they require. Without, it prints what the platform requires with the
parts for a cluster, and leaves out the tools of development. It reads who requires what from the comments of the lock,
so the image has the versions and hashes that were tested.
"""

import re
import sys
from collections.abc import Iterable, Sequence

PROJECT = "ml-platform"
CLUSTER_PACKAGES = ("boto3", "dagster-postgres", "nats-py", "psycopg", "psycopg-binary", "pyiceberg", "duckdb")
"""Packages of the extras `cluster`, `streams`, `iceberg` and `sql`, which the lock has for development."""

BLOCK = re.compile(r"^([a-zA-Z0-9][\w.-]*)==", re.MULTILINE)
PARENT = re.compile(r"^    #(?: via|  ) +(\S+)(?: \(pyproject\.toml(:\w+)?\))?$", re.MULTILINE)


def runtime_lock(lock: str, packages: Sequence[str] = ()) -> str:
    """Return the entries of ``lock`` that ``packages`` need, or without these, those that the platform needs."""
    blocks = entries(lock)
    required = {name: {each for each, _ in parents(text)} for name, text in blocks.items()}
    if packages:
        kept = set(packages)
    else:
        direct = {name for name, text in blocks.items() if (PROJECT, "") in parents(text)}
        kept = direct | set(CLUSTER_PACKAGES)
    missing = kept - blocks.keys()
    if missing:
        raise SystemExit(
            f"requirements.lock has no {', '.join(sorted(missing))}: correct runtime_lock.py or the command."
        )
    while more := {name for name, those in required.items() if those & kept} - kept:
        kept |= more
    return "".join(text for name, text in blocks.items() if name in kept)


def entries(lock: str) -> dict[str, str]:
    """Return name → text of its entries; a package with a version for each Python has several."""
    starts = [(match.start(), match[1]) for match in BLOCK.finditer(lock)]
    ends = [start for start, _ in starts[1:]] + [len(lock)]
    found: dict[str, str] = {}
    for (start, name), end in zip(starts, ends, strict=True):
        found[name] = found.get(name, "") + lock[start:end].partition("\n# ")[0].rstrip("\n") + "\n"
    return found


def parents(text: str) -> set[tuple[str, str]]:
    """Return the packages that require the package of an entry, each with the group of the project, or ""."""
    return {(name, group or "") for name, group in PARENT.findall(text)}


def main(packages: Iterable[str]) -> None:
    print(runtime_lock(sys.stdin.read(), list(packages)), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
