from enum import StrEnum


class PredictDepartureRiskReasonsMethod(StrEnum):
    FULL = "full"
    PATH = "path"

    def __str__(self) -> str:
        return str(self.value)
