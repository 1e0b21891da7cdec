"""The BentoML service of every bento: runs the packed application under BentoML's server."""

from typing import Any

import bentoml

from bento.app_factory import create_packed_app


class PlainService(bentoml.Service[Any]):  # type: ignore[misc, unused-ignore]
    """A BentoML service that runs our application, without the layers that cost four fifths of the throughput."""

    def to_asgi(self, is_main: bool = True) -> Any:
        return create_packed_app()


@bentoml.service(name="model", service_class=PlainService, workers=1)
class Model:
    """Scores the rows of a request with the packed model."""
