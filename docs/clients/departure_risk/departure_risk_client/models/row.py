from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

from ..models.row_origin import RowOrigin

T = TypeVar("T", bound="Row")


@_attrs_define
class Row:
    """A row has `origin` != `dest` and `scheduled_arrival` > `scheduled_departure`.

    Attributes:
        carrier (str): Airline (two-letter code)
        flight (int): Flight number
        tailnum (None | str): Tail number of the aircraft
        origin (RowOrigin): Airport of departure: EWR, JFK or LGA
        dest (str): Airport of destination
        scheduled_departure (datetime.datetime): Scheduled departure with offset. In the years 1685 to 2254. (at least
            1990-01-01T00:00:00+00:00 and at most 2100-01-01T00:00:00+00:00)
        scheduled_arrival (datetime.datetime): Scheduled arrival with offset. In the years 1685 to 2254.
    """

    carrier: str
    flight: int
    tailnum: str | None
    origin: RowOrigin
    dest: str
    scheduled_departure: datetime.datetime
    scheduled_arrival: datetime.datetime

    def to_dict(self) -> dict[str, Any]:
        carrier = self.carrier

        flight = self.flight

        tailnum: str | None
        tailnum = self.tailnum

        origin = self.origin.value

        dest = self.dest

        scheduled_departure = self.scheduled_departure.isoformat()

        scheduled_arrival = self.scheduled_arrival.isoformat()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "carrier": carrier,
                "flight": flight,
                "tailnum": tailnum,
                "origin": origin,
                "dest": dest,
                "scheduled_departure": scheduled_departure,
                "scheduled_arrival": scheduled_arrival,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        carrier = d.pop("carrier")

        flight = d.pop("flight")

        def _parse_tailnum(data: object) -> str | None:
            if data is None:
                return data
            return cast(None | str, data)

        tailnum = _parse_tailnum(d.pop("tailnum"))

        origin = RowOrigin(d.pop("origin"))

        dest = d.pop("dest")

        scheduled_departure = datetime.datetime.fromisoformat(d.pop("scheduled_departure"))

        scheduled_arrival = datetime.datetime.fromisoformat(d.pop("scheduled_arrival"))

        row = cls(
            carrier=carrier,
            flight=flight,
            tailnum=tailnum,
            origin=origin,
            dest=dest,
            scheduled_departure=scheduled_departure,
            scheduled_arrival=scheduled_arrival,
        )

        return row
