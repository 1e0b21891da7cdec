"""The attribute `source` of a dataset: one of the kinds of sources, by its `type`."""

from typing import Annotated

from pydantic import Field

from ml_platform.data.sources.delta import DeltaSource
from ml_platform.data.sources.files import FilesSource
from ml_platform.data.sources.function import FunctionSource
from ml_platform.data.sources.iceberg import IcebergSource
from ml_platform.data.sources.object_storage import ObjectStorageSource
from ml_platform.data.sources.sql import SqlSource

DeclaredSource = Annotated[
    FilesSource | ObjectStorageSource | SqlSource | DeltaSource | IcebergSource | FunctionSource,
    Field(discriminator="type"),
]
