"""Two writers of one partition at the same time leave the rows of one of them, in both kinds of state store."""

import threading
from pathlib import Path

import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.state.store import StateStore

ROUNDS = 15


def test_two_replacements_of_one_partition_do_not_both_stay(any_state: StateStore, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"), any_state)
    lake.write("orders", pl.DataFrame({"value": [0]}), "2024-01")
    barrier = threading.Barrier(2)

    def replace(number: int) -> None:
        own = Lake(lake.root, StateStore(path=any_state.path, url=any_state.url))
        for value in range(ROUNDS):
            staged = own.stage("orders", pl.DataFrame({"value": [100 * number + value]}), "2024-01")
            barrier.wait(60)
            own.record(staged, replace=True)

    writers = [threading.Thread(target=replace, args=(number,)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)

    assert lake.scan("orders").collect().height == 1
    assert lake.version("orders") == 2 * ROUNDS
