"""Lines of a stream: how they are received, grouped and answered."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import orjson
import pytest

from bento.row_stream import ReceivedLines, answered_lines
from ml_platform.serving.request_contract import FieldError, InvalidRequestError


def groups(*parts: bytes, rows: int = 2, max_line_bytes: int = 100) -> list[list[bytes]]:
    """Return the groups of a body that has arrived whole."""

    async def found() -> list[list[bytes]]:
        with closing(ReceivedLines(max_line_bytes)) as lines:
            for part in parts:
                lines.write(part)
            lines.end()
            return [group async for group in lines.groups(rows)]

    return asyncio.run(found())


def positive(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Answer each number with itself; raise if one is not positive."""
    if not all(row > 0 for row in rows):
        raise InvalidRequestError(422, "field", [FieldError("rows[0]", "a positive number", "another")])
    return [{"score": row} for row in rows]


def answers(lines: Sequence[bytes], max_line_bytes: int = 100) -> list[dict[str, Any]]:
    found = answered_lines(lines, 11, max_line_bytes, positive)
    return [orjson.loads(line) for line in found.splitlines()]


def test_lines_that_arrive_in_any_parts_become_groups_without_blank_ones() -> None:
    expected = [[b"1\n", b"2\r\n"], [b"3"]]
    body = b"1\n\n2\r\n  \n3"
    assert groups(body) == expected
    assert groups(*(body[at : at + 1] for at in range(len(body)))) == expected
    assert groups(b"") == groups(b"\n\n") == []


def test_lines_are_taken_as_they_arrive_and_take_no_room_afterwards() -> None:
    async def arrive() -> None:
        with closing(ReceivedLines(100)) as lines:
            groups = lines.groups(2)
            lines.write(b"1\n2\n3\n4")
            assert [await anext(groups), await anext(groups)] == [[b"1\n", b"2\n"], [b"3\n"]]
            waiting = asyncio.ensure_future(anext(groups))
            for part in (b"5", b"\n\n"):
                assert not waiting.done()
                lines.write(part)
            assert await waiting == [b"45\n"]
            for number in range(1000):
                lines.write(b"%099d\n" % number)
                assert len(await anext(groups)) == 1
            assert lines.stored_bytes == 0
            lines.write(b"6\n7")
            lines.end()
            assert [group async for group in groups] == [[b"6\n", b"7"]]

    asyncio.run(arrive())


def test_error_that_ends_a_body_comes_after_the_lines_before_it() -> None:
    async def fail() -> None:
        with closing(ReceivedLines(100)) as lines:
            lines.write(b"1\n2\nhalf")
            lines.end(ValueError("slow"))
            groups = lines.groups(5)
            assert await anext(groups) == [b"1\n", b"2\n"]
            with pytest.raises(ValueError, match="slow"):
                await anext(groups)

    asyncio.run(fail())


def test_line_that_is_too_long_is_refused_alone_and_takes_no_memory() -> None:
    ((first, long, last),) = groups(b"1\n" + b"2" * 5000 + b"\n3\n", rows=3)
    assert (first, len(long), last) == (b"1\n", 101, b"3\n")
    found = answers([first, long, last])
    assert [each.get("score") for each in found] == [1, None, 3]
    assert (found[1]["error"]["status"], found[1]["line"]) == (413, 12)


@pytest.mark.parametrize("end", [b"1", b"\n"])
def test_body_that_is_too_large_or_has_too_many_lines_is_refused(end: bytes) -> None:
    with closing(ReceivedLines(100, max_bytes=20, max_lines=1)) as lines:
        lines.write(b"1" * (20 if end == b"1" else 9) + (b"" if end == b"1" else b"\n"))
        with pytest.raises(InvalidRequestError, match=r"at most 20 bytes and 1 lines") as caught:
            lines.write(end)
    assert caught.value.status == 413


def test_wrong_lines_are_refused_by_number_and_the_others_are_answered() -> None:
    lines = [f"{value}\n".encode() for value in range(1, 101)]
    lines[7], lines[70], lines[71] = b"-1\n", b"{\n", b"0\n"
    found = answers(lines)
    assert [each.get("score") for each in found] == [
        None if place in (7, 70, 71) else place + 1 for place in range(100)
    ]
    assert [(found[place]["line"], found[place]["error"]["status"]) for place in (7, 70, 71)] == [
        (18, 422),
        (81, 400),
        (82, 422),
    ]


def test_other_errors_pass_through() -> None:
    with pytest.raises(TypeError):
        answers([b"1", b'"text"'])
