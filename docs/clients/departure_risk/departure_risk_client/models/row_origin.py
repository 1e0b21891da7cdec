from enum import StrEnum


class RowOrigin(StrEnum):
    EWR = "EWR"
    JFK = "JFK"
    LGA = "LGA"

    def __str__(self) -> str:
        return str(self.value)
