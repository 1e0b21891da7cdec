from enum import StrEnum


class PredictionReasonsMethod(StrEnum):
    FULL = "full"
    PATH = "path"

    def __str__(self) -> str:
        return str(self.value)
