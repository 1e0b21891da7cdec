"""Batches of rows on the device in the order of an epoch, from resident rows or from chunks that are streamed.

Both ways give the same batches in the same order, so the location of the rows never changes a model.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ml_platform.tasks.ranking import GROUP
from ml_platform.training.torch_settings import TorchSettings
from ml_platform.training.trainer import Matrix

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RESIDENT_MEMORY_SHARE = 0.5

Groups = npt.NDArray[np.int64]


def epoch_order(rows: int, seed: int, epoch: int, group: Groups | None = None) -> npt.NDArray[np.int64]:
    """Return the order of the rows in ``epoch``, which depends on the arguments only: a resumed epoch has the same.

    With ``group``, the number of the group of each row from 0, the groups are in random order, each with its rows
    together.
    """
    random = np.random.default_rng([seed, epoch])
    if group is None:
        return random.permutation(rows)
    return np.argsort(random.permutation(group.max() + 1)[group], kind="stable")


class BatchLoader:
    """Batches of ``matrix`` on ``device``.

    With groups in the context of the rows, a batch has whole groups, and its label has two columns: label and group.
    """

    def __init__(self, matrix: Matrix, device: "torch.device", settings: TorchSettings) -> None:
        import torch

        self.device = device
        self.batch_rows = settings.batch_rows
        # A chunk has whole batches.
        self.chunk_rows = max(1, settings.chunk_rows // settings.batch_rows) * settings.batch_rows
        self.features = torch.from_numpy(np.ascontiguousarray(matrix.features))
        self.label = torch.from_numpy(matrix.label.astype(np.float32))
        self.group: Groups | None = None
        if GROUP in matrix.context:
            self.group = np.unique(matrix.context[GROUP], return_inverse=True)[1]
            # Numbers up to 2^24 are exact.
            self.label = torch.stack([self.label, torch.from_numpy(self.group.astype(np.float32))], dim=1)
        self.resident = is_resident(matrix, device, settings)
        if self.resident:
            self.features, self.label = self.features.to(device), self.label.to(device)

    def batches(
        self, order: npt.NDArray[np.int64], first: int = 0, share: tuple[int, int] = (0, 1)
    ) -> "Iterator[tuple[Tensor, Tensor]]":
        """Yield (features, label) of the batches of ``order``, starting with number ``first``.

        ``share`` is (rank, ranks). A rank gets every ``ranks``-th row of a batch, and all ranks get equally many rows.
        """
        import torch

        rank, ranks = share
        parts = [batch[: batch.size // ranks * ranks][rank::ranks] for batch in np.split(order, self._ends(order))][
            first:
        ]
        selected = [part for part in parts if part.size]
        if self.resident:
            for part in selected:
                row_indices = torch.from_numpy(np.ascontiguousarray(part)).to(self.device)
                yield self.features.index_select(0, row_indices), self.label.index_select(0, row_indices)
            return
        yield from self._stream(selected)

    def _ends(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the places in ``order`` at which a batch ends; the last one ends with the rows."""
        ends = np.arange(self.batch_rows, order.size, self.batch_rows)
        if self.group is None:
            return ends
        begins = np.flatnonzero(np.diff(self.group[order], prepend=-1))
        # The last group that begins within the batch is the first one of the next batch.
        found = np.unique(begins[np.searchsorted(begins, ends, side="right") - 1])
        return found[found > 0]

    def _stream(self, selected: list[npt.NDArray[np.int64]]) -> "Iterator[tuple[Tensor, Tensor]]":
        batches_per_chunk = self.chunk_rows // self.batch_rows
        chunks = [selected[index : index + batches_per_chunk] for index in range(0, len(selected), batches_per_chunk)]
        with ThreadPoolExecutor(max_workers=1) as executor:
            upcoming: Future[tuple[Tensor, Tensor]] | None = None
            for index, chunk in enumerate(chunks):
                features, label = upcoming.result() if upcoming else self._send_chunk(chunk)
                upcoming = executor.submit(self._send_chunk, chunks[index + 1]) if index + 1 < len(chunks) else None
                first_row = 0
                for part in chunk:
                    yield features[first_row : first_row + part.size], label[first_row : first_row + part.size]
                    first_row += part.size

    def _send_chunk(self, chunk: list[npt.NDArray[np.int64]]) -> "tuple[Tensor, Tensor]":
        import torch

        row_indices = torch.from_numpy(np.concatenate(chunk))
        features, label = self.features.index_select(0, row_indices), self.label.index_select(0, row_indices)
        if self.device.type == "cuda":
            # Only pinned memory can be copied while the device computes.
            features, label = features.pin_memory(), label.pin_memory()
        return features.to(self.device, non_blocking=True), label.to(self.device, non_blocking=True)


def is_resident(matrix: Matrix, device: "torch.device", settings: TorchSettings) -> bool:
    """Return whether the rows stay on ``device``: as declared, or for ``auto`` if they fit half of its free memory."""
    if settings.resident != "auto":
        return settings.resident == "always"
    if device.type != "cuda":
        return True
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return matrix.features.nbytes + matrix.label.nbytes // 2 <= free * RESIDENT_MEMORY_SHARE
