"""Temporary folders and files of a killed process are removed; those of a running process and of others stay."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ml_platform.data import scratch
from ml_platform.data.atomic import publish_directory, write_bytes
from ml_platform.data.scratch import scratch_folder, scratch_prefix, sweep, sweep_temporary_folder

USES_FOLDERS = """
import sys
from pathlib import Path
from ml_platform.data.scratch import scratch_folder
with scratch_folder("fit") as own, scratch_folder("bento", Path(sys.argv[1])) as inside:
    (own / "rows").write_text("1")
    (inside / "deep").mkdir()
    print(own, inside, sep="\\n", flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_folder_of_a_running_process_stays_until_the_process_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "bentos").mkdir(parents=True)
    program = subprocess.Popen(
        [sys.executable, "-c", USES_FOLDERS, str(home / "bentos")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    own, inside = (Path(program.stdout.readline().strip()) for _ in range(2))
    assert (own.is_dir(), inside.parent) == (True, home / "bentos")
    assert sweep_temporary_folder() == sweep(home) == []

    program.kill()
    program.wait()

    assert sweep_temporary_folder() == [own]
    assert sweep(home) == [inside]
    assert not own.exists()
    assert not inside.exists()
    assert sweep_temporary_folder() == sweep(home) == []


def test_only_abandoned_names_of_the_platform_are_removed(tmp_path: Path) -> None:
    prefix = scratch_prefix("file", hidden=True)
    host, pid, start, boot, ticks = prefix.rstrip(",").split(",")[2:]
    earlier = tmp_path / f".ml-platform,file,{host},{pid},{start},{boot},{int(ticks) - 1},a"
    kept = [
        tmp_path / f"{prefix}a",
        tmp_path / f".ml-platform,file,another-host,{pid},{start},{boot},{int(ticks) - 1},a",
        tmp_path / ".ml-platform,notes",
        tmp_path / ".hidden",
        tmp_path / "excluded" / earlier.name,
    ]
    (tmp_path / "excluded").mkdir()
    for path in (earlier, *kept):
        path.write_text("1")

    assert sweep(tmp_path, {tmp_path / "excluded"}) == [earlier]
    assert [path for path in kept if not path.exists()] == []


def test_folder_is_private_and_removed_at_the_end(temporary: Path) -> None:
    with scratch_folder("two,words") as folder:
        assert folder.parent == temporary
        assert folder.name.startswith("ml-platform,two-words,")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(temporary.iterdir()) == []


def test_atomic_writes_leave_nothing_behind(tmp_path: Path) -> None:
    write_bytes(tmp_path / "state" / "a.json", b"1")
    for content in ("old", "new"):
        staged = tmp_path / "state" / "staged"
        staged.mkdir()
        (staged / "model.txt").write_text(content)
        publish_directory(staged, tmp_path / "state" / "model")

    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["a.json", "model"]
    assert (tmp_path / "state" / "model" / "model.txt").read_text() == "new"


def test_every_temporary_folder_of_the_engine_can_be_swept() -> None:
    package = Path(scratch.__file__).parents[1]
    makers = ("TemporaryDirectory(", "mkdtemp(")
    found = [path.name for path in package.rglob("*.py") if any(maker in path.read_text() for maker in makers)]
    assert found == ["scratch.py"]
