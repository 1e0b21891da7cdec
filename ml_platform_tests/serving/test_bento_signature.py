"""The signature of a bento: a changed, added or missing file, and a signature of another key, are refused."""

import base64
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ml_platform.serving.bento_signature import (
    SIGNATURE_FILE,
    TRUSTED_KEYS_VARIABLE,
    ChangedBentoError,
    require_signature,
)
from ml_platform.serving.bento_signing import SIGNING_KEY_VARIABLE, SigningKeyError, SigningKeys

FILES = {
    "bento.yaml": "name: toy",
    "env/python/requirements.txt": "numpy==2.4.6",
    "src/package.json": '{"signed": true}',
    "src/model/model.txt": "leaf_value=0.125",
    "src/bento/service.py": "MODEL = 1",
}


@pytest.fixture(autouse=True)
def no_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SIGNING_KEY_VARIABLE, raising=False)
    monkeypatch.delenv(TRUSTED_KEYS_VARIABLE, raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> SigningKeys:
    return SigningKeys(tmp_path / "home" / "signing")


@pytest.fixture
def bento(keys: SigningKeys) -> Path:
    """A signed bento in the home of the keys."""
    folder = write_bento(keys.folder.parent / "bentos" / "1-abc")
    keys.sign(folder)
    return folder


def write_bento(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def private_key(curve: ec.EllipticCurve) -> bytes:
    key = ec.generate_private_key(curve)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_signed_bento_is_verified_by_its_key_with_both_programs(keys: SigningKeys, bento: Path) -> None:
    (public,) = keys.trusted.iterdir()
    key = require_signature(bento, keys.trusted)
    assert len(key) == 64
    assert public.name == f"{key[:16]}.pem"
    assert keys.verify(bento) == key
    # The command line of the specification verifies it too.
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(bento)]
    arguments = ["--signature", str(bento / SIGNATURE_FILE), "--public_key", str(public)]
    arguments += ["--ignore-paths", str(bento / SIGNATURE_FILE)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Verification succeeded" in done.stdout) == (0, True), done.stderr


def test_private_key_is_made_once_and_only_its_owner_reads_it(keys: SigningKeys, bento: Path, tmp_path: Path) -> None:
    before = keys.private.read_bytes()
    assert stat.S_IMODE(keys.private.stat().st_mode) == 0o600
    assert keys.sign(write_bento(tmp_path / "other")) == require_signature(bento, keys.trusted)
    assert keys.private.read_bytes() == before
    assert len(list(keys.trusted.iterdir())) == 1


def change_digit(bento: Path) -> None:
    (bento / "src/model/model.txt").write_text("leaf_value=0.126")


def change_requirements(bento: Path) -> None:
    (bento / "env/python/requirements.txt").write_text("numpy==2.4.7")


def add_file(bento: Path) -> None:
    (bento / "src/orjson.pyc").write_bytes(b"bytecode")


def link_folder(bento: Path) -> None:
    (bento / "src/numpy").symlink_to(bento / "src/model")


def remove_file(bento: Path) -> None:
    (bento / "src/bento/service.py").unlink()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (change_digit, "changed: 'src/model/model.txt'"),
        (change_requirements, "changed: 'env/python/requirements.txt'"),
        (add_file, "added: 'src/orjson.pyc'"),
        (link_folder, "added: 'src/numpy'"),
        (remove_file, "missing: 'src/bento/service.py'"),
    ],
)
def test_other_files_than_the_signed_ones_are_refused(
    keys: SigningKeys, bento: Path, change: Callable[[Path], None], found: str
) -> None:
    change(bento)
    with pytest.raises(ChangedBentoError, match=f"Bento 1-abc: expected the files that were signed, found {found}"):
        require_signature(bento, keys.trusted)
    with pytest.raises(ChangedBentoError, match=found):
        keys.verify(bento)


def test_signature_of_another_key_is_refused_until_its_public_key_is_trusted(
    keys: SigningKeys, bento: Path, tmp_path: Path
) -> None:
    other = SigningKeys(tmp_path / "other")
    signer = other.sign(bento)
    with pytest.raises(
        ChangedBentoError, match=rf"expected a signature of a trusted key \(\w+\), found one of key {signer[:12]}"
    ):
        require_signature(bento, keys.trusted)
    shutil.copytree(other.trusted, keys.trusted, dirs_exist_ok=True)
    assert require_signature(bento, keys.trusted) == signer


def test_signature_with_another_list_of_files_is_refused(keys: SigningKeys, bento: Path) -> None:
    change_digit(bento)
    copy = write_bento(bento.with_name("copy"))
    change_digit(copy)
    SigningKeys(bento.with_name("forged")).sign(copy)
    forged, own = (json.loads((each / SIGNATURE_FILE).read_text()) for each in (copy, bento))
    own["dsseEnvelope"]["payload"] = forged["dsseEnvelope"]["payload"]
    (bento / SIGNATURE_FILE).write_text(json.dumps(own))
    with pytest.raises(ChangedBentoError, match="found a signature of other content"):
        require_signature(bento, keys.trusted)


@pytest.mark.parametrize("text", ["", "{}", '{"verificationMaterial": 1}', "\x00"])
def test_unreadable_signature_is_refused(keys: SigningKeys, bento: Path, text: str) -> None:
    (bento / SIGNATURE_FILE).write_text(text)
    with pytest.raises(ChangedBentoError, match=r"expected a readable signature in model\.sig"):
        require_signature(bento, keys.trusted)


def test_bento_that_was_signed_is_refused_without_its_signature(keys: SigningKeys, bento: Path) -> None:
    (bento / SIGNATURE_FILE).unlink()
    with pytest.raises(ChangedBentoError, match=r"expected a signature in model\.sig, found none"):
        require_signature(bento, keys.trusted)


def test_bento_of_an_earlier_release_has_no_signature(keys: SigningKeys, bento: Path) -> None:
    (bento / SIGNATURE_FILE).unlink()
    (bento / "src/package.json").write_text("{}")
    assert require_signature(bento, keys.trusted) == ""
    assert keys.verify(bento) == ""


def test_bytecode_is_not_part_of_a_signature(keys: SigningKeys, bento: Path) -> None:
    (bento / "src/bento/__pycache__").mkdir()
    (bento / "src/bento/__pycache__/service.cpython-311.pyc").write_bytes(b"bytecode")
    assert keys.verify(bento) == require_signature(bento, keys.trusted) != ""


def test_moved_home_verifies_its_bentos(keys: SigningKeys, bento: Path) -> None:
    home = keys.folder.parent
    moved = home.rename(home.with_name("moved"))
    there = SigningKeys(moved / "signing")
    assert there.verify(moved / bento.relative_to(home)) != ""
    there.private.unlink()  # a backup has no private key
    assert there.verify(moved / bento.relative_to(home)) != ""


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
@pytest.mark.parametrize("as_file", [False, True], ids=["text", "file"])
def test_key_of_the_environment_signs_and_is_not_stored(
    keys: SigningKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curve: ec.EllipticCurve, as_file: bool
) -> None:
    text = private_key(curve)
    (tmp_path / "key").write_bytes(text)
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(tmp_path / "key") if as_file else text.decode())
    folder = write_bento(tmp_path / "bento")
    key = keys.sign(folder)
    assert not keys.private.exists()
    monkeypatch.setenv(TRUSTED_KEYS_VARIABLE, str(keys.trusted))
    assert require_signature(folder) == keys.verify(folder) == key


@pytest.mark.parametrize("value", ["/nowhere/key.pem", "-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----"])
def test_unusable_key_of_the_environment_is_refused(
    keys: SigningKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, value)
    with pytest.raises(SigningKeyError, match="Private key for bentos: expected a key of an elliptic curve"):
        keys.sign(write_bento(tmp_path / "bento"))
    assert not keys.private.exists()


def test_check_before_a_start_imports_no_more_than_cryptography(keys: SigningKeys, bento: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ml_platform.serving.bento_signature import require_signature; "
        "print(require_signature(Path(sys.argv[1]), Path(sys.argv[2]))); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'model_signing', 'sigstore', 'pydantic', 'polars', 'numpy', 'sqlalchemy'}))"
    )
    command = [sys.executable, "-c", code, str(bento), str(keys.trusted)]
    key, heavy = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split("\n")[:2]
    assert (key, heavy) == (require_signature(bento, keys.trusted), "[]")


def test_signature_names_no_path_of_the_machine(bento: Path) -> None:
    envelope = json.loads((bento / SIGNATURE_FILE).read_text())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert {each["name"] for each in statement["predicate"]["resources"]} == set(FILES)
    assert str(bento.parent) not in json.dumps(statement)
