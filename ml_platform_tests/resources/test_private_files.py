"""A home is private to its owner, or readable for a declared group; new files get their access from the umask."""

import grp
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform.data.atomic import publish_directory, write_bytes
from ml_platform.serving.bento_signing import SigningKeys
from resources.home import Home
from resources.home_version import prepare_home
from resources.private_files import GROUP_VARIABLE, GroupError, apply_umask, restrict_access

PROJECT = Path(__file__).parents[2]
OTHER_GROUPS = [group for group in os.getgroups() if group != os.getgid()] or ([1] if os.geteuid() == 0 else [])
needs_group = pytest.mark.skipif(not OTHER_GROUPS, reason="this user can give files to one group only")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Start with the usual umask of a login, and restore that of the test process."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> int:
    """Declare another group than the user's own, and return its id."""
    monkeypatch.setenv(GROUP_VARIABLE, str(OTHER_GROUPS[0]))
    return OTHER_GROUPS[0]


def modes(root: Path) -> dict[str, str]:
    """Return the access bits of ``root`` and of everything below."""
    found = {".": root, **{path.relative_to(root).as_posix(): path for path in root.rglob("*")}}
    return {name: oct(stat.S_IMODE(path.stat().st_mode)) for name, path in found.items()}


def test_new_home_and_its_files_are_private(tmp_path: Path) -> None:
    apply_umask()
    home = Home(tmp_path / "home")
    prepare_home(home)
    write_bytes(home.records / "note.txt", b"text")
    found = modes(home.root)
    assert found["."] == "0o700"
    assert (found["home.json"], found["state.db"], found["records/note.txt"]) == ("0o600", "0o600", "0o600")
    assert all(int(mode, 8) & 0o077 == 0 for mode in found.values()), found


def test_published_folder_is_private(tmp_path: Path) -> None:
    apply_umask()
    (tmp_path / "staged" / "inner").mkdir(parents=True)
    (tmp_path / "staged" / "inner" / "page.html").write_text("page")
    publish_directory(tmp_path / "staged", tmp_path / "target")
    assert modes(tmp_path / "target") == {".": "0o700", "inner": "0o700", "inner/page.html": "0o600"}


def test_home_of_an_earlier_release_becomes_private(tmp_path: Path) -> None:
    root = tmp_path / "home"
    (root / "records").mkdir(parents=True)
    (root / "home.json").write_text('{"version": 2}')
    assert modes(root)["."] == "0o755"
    prepare_home(Home(root))
    assert modes(root)["."] == "0o700"


def test_stricter_umask_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GROUP_VARIABLE, str(os.getgid()))
    os.umask(0o177)
    apply_umask()
    assert os.umask(0o022) == 0o177


def test_every_command_applies_the_umask(tmp_path: Path) -> None:
    code = (
        "import os; from resources import environment; environment.apply();"
        f"open({str(tmp_path / 'file')!r}, 'w').close(); os.mkdir({str(tmp_path / 'folder')!r})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
    assert (modes(tmp_path)["file"], modes(tmp_path)["folder"]) == ("0o600", "0o700")


@needs_group
def test_declared_group_may_read_the_home_and_all_new_files(tmp_path: Path, group: int) -> None:
    apply_umask()
    home = Home(tmp_path / "home")
    prepare_home(home)
    write_bytes(home.records / "note.txt", b"text")
    status = (home.records / "note.txt").stat()
    assert (status.st_gid, oct(stat.S_IMODE(status.st_mode))) == (group, "0o640")
    assert (home.root.stat().st_gid, modes(home.root)["."], modes(home.root)["records"]) == (group, "0o2750", "0o2750")


@needs_group
def test_group_declared_later_gets_the_existing_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply_umask()
    home = Home(tmp_path / "home")
    prepare_home(home)
    write_bytes(home.records / "note.txt", b"text")
    monkeypatch.setenv(GROUP_VARIABLE, str(OTHER_GROUPS[0]))
    prepare_home(home)
    found = modes(home.root)
    assert (found["."], found["records"], found["records/note.txt"]) == ("0o2750", "0o2750", "0o640")
    assert restrict_access(home.root) == []
    # A command without the declaration does not take the access away.
    monkeypatch.delenv(GROUP_VARIABLE)
    prepare_home(home)
    assert modes(home.root) == found


@needs_group
def test_executable_file_stays_executable_for_its_owner_only(tmp_path: Path, group: int) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    script, link = tmp_path / "home" / "run.sh", tmp_path / "home" / "link"
    script.touch(mode=0o777)
    script.chmod(0o777)
    link.symlink_to("/etc/hostname")
    restrict_access(tmp_path / "home")
    assert oct(stat.S_IMODE(script.stat().st_mode)) == "0o740"
    assert link.lstat().st_gid != group or [os.getgid()] == OTHER_GROUPS


@needs_group
def test_private_key_is_read_by_its_owner_only(tmp_path: Path, group: int) -> None:
    home = Home(tmp_path / "home")
    keys = SigningKeys(home.signing_keys)
    (tmp_path / "home" / "bento").mkdir(parents=True)
    keys.sign(tmp_path / "home" / "bento")
    (public,) = keys.trusted.iterdir()
    restrict_access(home.root)
    found = [oct(stat.S_IMODE(path.stat().st_mode)) for path in (keys.private, public)]
    assert found == ["0o600", "0o640"]


def test_unknown_group_is_refused_before_a_home_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GROUP_VARIABLE, "no-such-group")
    with pytest.raises(GroupError, match=r"expected a group of this machine, found 'no-such-group'. Correct or unset"):
        prepare_home(Home(tmp_path / "home"))
    assert not (tmp_path / "home").exists()


@needs_group
def test_change_of_the_group_names_the_group(tmp_path: Path, group: int) -> None:
    (tmp_path / "home").mkdir()
    assert restrict_access(tmp_path / "home") == [f"made the home readable for the group {grp.getgrgid(group).gr_name}"]
