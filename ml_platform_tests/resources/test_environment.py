"""Each platform process gets the same environment."""

import subprocess
import sys

from resources.environment import COLLECTOR_THRESHOLDS


def test_process_of_the_platform_collects_garbage_rarely() -> None:
    program = "import gc; import ml_platform.definitions; print(gc.get_threshold())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(COLLECTOR_THRESHOLDS)
