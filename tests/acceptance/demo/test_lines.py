"""A file of orders, read line by line: whatever stands there, it is an order or a reason."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from eventsaga.demo.lines import MAX_LINE, BadLineError, Line, Source

ORDER: dict[str, Any] = {
    "order_id": "order-1",
    "customer_id": "cust-123",
    "items": [{"product_id": "prod-001", "quantity": 2, "price": 29.99}],
    "total_amount": 59.98,
    "payment_method": {"type": "card", "token": "tok_visa_4242"},
    "shipping_address": {
        "street": "123 Main St",
        "city": "San Francisco",
        "zip_code": "94102",
        "country": "US",
    },
}

CAMEL = """
{"orderId": "order-1", "customerId": "cust-123",
 "items": [{"productId": "prod-001", "quantity": 2, "price": 29.99}], "totalAmount": 59.98,
 "paymentMethod": {"type": "card", "token": "tok_visa_4242"},
 "shippingAddress": {"street": "123 Main St", "city": "San Francisco", "zipCode": "94102",
                     "country": "US"}}
"""


def line(content: bytes | str | dict[str, Any], number: int = 2) -> Line:
    if isinstance(content, dict):
        content = json.dumps(content)
    return Line(number, content if isinstance(content, bytes) else content.encode())


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in ORDER.items() if name != field}


def test_both_spellings_of_the_fields_are_the_same_order() -> None:
    assert line(CAMEL.replace("\n", " ")).parse() == line(ORDER).parse()


@pytest.mark.parametrize("blank", [b"", b"   ", b"\r", b"\t\r"])
def test_a_blank_line_is_no_order_and_no_error(blank: bytes) -> None:
    assert line(blank).parse() is None


def test_a_byte_order_mark_is_understood_on_the_first_line_only() -> None:
    marked = b"\xef\xbb\xbf" + json.dumps(ORDER).encode()
    assert line(marked, number=1).parse() == line(ORDER).parse()
    with pytest.raises(BadLineError, match="not JSON"):
        line(marked, number=2).parse()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON: EOF"),
        (b"null", "Input should be an object"),
        (b"[]", "Input should be an object"),
        (b'{"order_id": "a\xff"}', "not UTF-8: invalid start byte at byte 16"),
        (b"\x00", "not JSON"),
        (b"[" * 1000, "not JSON: recursion limit exceeded"),
        (json.dumps({**ORDER, "order_id": "a\x00b"}), "order_id: "),
        (json.dumps({**ORDER, "customer_id": "a\x00b"}), "customer_id: "),
        ('{"order_id": "\\ud800"}', "not JSON"),
        (b" " * (MAX_LINE + 1), f"longer than {MAX_LINE:,} bytes"),
        (without("items"), "items: Field required"),
        ({**ORDER, "items": []}, "items: List should have at least 1 item"),
        ({**ORDER, "total_amount": 0}, "total_amount: Input should be greater than 0"),
        (
            {**ORDER, "total_amount": 1.234},
            "total_amount: Decimal input should have no more than 2",
        ),
        ({**ORDER, "total_amount": float("nan")}, "total_amount: Input should be a finite number"),
        ({**ORDER, "total_amount": float("inf")}, "total_amount: Input should be a finite number"),
        ({**ORDER, "totalAmuont": 1}, "totalAmuont: Extra inputs are not permitted"),
        ({**ORDER, "shipment_id": "shp_mine"}, "shipment_id: Extra inputs are not permitted"),
        ({**ORDER, "order_id": "a/b"}, "order_id: String should match"),
        ({**ORDER, "order_id": ".."}, "order_id: String should match"),
        ({**ORDER, "order_id": "a b"}, "order_id: String should match"),
        ({**ORDER, "order_id": "a\u202eb"}, "order_id: String should match"),
        ({**ORDER, "order_id": "x" * 101}, "order_id: String should have at most 100"),
        ({"a": 1}, "; and 4 more"),
    ],
)
def test_a_line_that_is_no_order_says_why(
    content: bytes | str | dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadLineError) as refused:
        line(content).parse()
    assert reason in str(refused.value)


def test_a_reason_does_not_repeat_what_may_be_a_secret() -> None:
    with pytest.raises(BadLineError) as refused:
        line({**ORDER, "payment_method": {"type": "cash", "token": "4111111111111111"}}).parse()
    assert "4111" not in str(refused.value)


def read(path: Path) -> list[Line]:
    async def collect() -> list[Line]:
        with Source.open(path) as source:
            return [line async for line in source.lines()]

    return asyncio.run(collect())


def test_lines_are_cut_at_their_ends_wherever_the_chunks_are(tmp_path: Path) -> None:
    contents = [bytes([65 + number % 26]) * (number * 37 % 9_000) for number in range(400)]
    path = tmp_path / "orders.jsonl"
    path.write_bytes(b"\n".join(contents) + b"\n")
    assert [line.content for line in read(path)] == contents
    assert [line.number for line in read(path)] == list(range(1, 401))


def test_the_last_line_need_not_end_and_an_empty_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(b"a\n\nb")
    assert [(line.number, line.content) for line in read(path)] == [(1, b"a"), (2, b""), (3, b"b")]
    path.write_bytes(b"")
    assert read(path) == []


def test_of_a_line_that_is_too_long_only_a_piece_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(b"x" * 3_000_000 + b"\nnext\n" + b"y" * 3_000_000)
    lines = read(path)
    assert [len(line.content) for line in lines] == [MAX_LINE + 1, 4, MAX_LINE + 1]
    assert [line.number for line in lines] == [1, 2, 3]


async def test_a_pipe_is_read_as_it_is_written() -> None:
    reading, writing = os.pipe()
    with Source("pipe", reading) as source:
        lines = source.lines()
        first = asyncio.create_task(anext(lines))
        os.write(writing, b"one\ntw")
        assert (await first).content == b"one"
        second = asyncio.create_task(anext(lines))
        os.write(writing, b"o\n")
        assert (await second).content == b"two"
        os.close(writing)
        assert [line async for line in lines] == []
    assert source.size is None


def test_what_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match=r"directory|No such file"):
            Source.open(path)


def test_every_example_is_an_order() -> None:
    examples = read(Path(__file__).parents[3] / "examples" / "orders.jsonl")
    orders = [example.parse() for example in examples]
    assert len({order.order_id for order in orders if order}) == len(examples) == 12
