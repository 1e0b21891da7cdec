"""Records of release 0.1.0 protected by a digest keep their stored names and are read with the current names."""

import numpy as np
import polars as pl

from ml_platform.evaluation.bootstrap import BootstrapSettings
from ml_platform.evaluation.evidence import Evidence


def test_evidence_of_release_0_1_0_is_read_with_the_current_name_of_the_baseline() -> None:
    stored = pl.DataFrame(
        {
            "label": [0.0, 1.0],
            "block": [0, 1],
            "prediction__candidate": [0.2, 0.9],
            "prediction__base_rate": [0.5, 0.5],
            "prediction__schedule_only": [0.4, 0.6],
        }
    )

    evidence = Evidence.from_table(stored, task="classification", settings=BootstrapSettings())

    assert evidence.baselines == ["base_rate", "request_only"]
    np.testing.assert_array_equal(evidence.predictions["request_only"], [0.4, 0.6])
