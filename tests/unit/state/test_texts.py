"""Values that are text in JSON: what a sender can make a node decode, and what a method may rely on then."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator import ChangeRejected, Commands, InvalidChange, change
from replicator.state.conversion import converter_of
from replicator.state.texts import DECIMAL_EXPONENT_MAX
from tests.support.kv import Group, in_step

ARABIC_FIVE = "\N{ARABIC-INDIC DIGIT FIVE}"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Decimal, "NaN"),
        (Decimal, "sNaN"),
        (Decimal, "-NaN"),
        (Decimal, "NaN123"),
        (Decimal, "Infinity"),
        (Decimal, "-Infinity"),
        (Decimal, "1e999999"),
        (Decimal, "1E+999999"),
        (Decimal, f"1E+{DECIMAL_EXPONENT_MAX + 1}"),
        (Decimal, f"1E-{DECIMAL_EXPONENT_MAX + 1}"),
        (Decimal, f"0E+{DECIMAL_EXPONENT_MAX + 1}"),
        (Decimal, "+1"),
        (Decimal, " 1"),
        (Decimal, "1_000"),
        (Decimal, "1e2"),
        (Decimal, ARABIC_FIVE),
        (date, "20200101"),
        (date, "2020-W01-1"),
        (date, "2020-01-01T00:00:00"),
        (datetime, "2024-01-01"),
        (datetime, "2024-01-01T09:00:00"),
        (datetime, "20240101T090000+0000"),
        (datetime, "2024-W01-1T09:00:00+00:00"),
        (datetime, "2024-01-01 09:00:00+00:00"),
        (datetime, "2024-01-01T09:00+00:00"),
        (datetime, "2024-01-01T09:00:00,5+00:00"),
        (datetime, "2024-01-01T09:00:00.1234567+00:00"),
        (datetime, "2024-01-01T24:00:00+00:00"),
        (datetime, "2024-01-01T09:00:00+0100"),
        (datetime, "2024-01-01T09:00:00-00:00"),
        (datetime, "0001-01-01T00:00:00+23:59"),
        (UUID, "12345678123456781234567812345678"),
        (UUID, "{12345678-1234-5678-1234-567812345678}"),
        (UUID, "urn:uuid:12345678-1234-5678-1234-567812345678"),
        (UUID, "ABCDEF78-1234-5678-1234-567812345678"),
        (UUID, ARABIC_FIVE * 32),
    ],
)
def test_a_text_that_is_not_the_one_of_a_value_is_refused(kind: type, text: str) -> None:
    with pytest.raises(InvalidChange, match=r"^it must ") as raised:
        converter_of(kind).decode(text, "it")
    assert raised.value.field == "it"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Decimal, Decimal("NaN")),
        (Decimal, Decimal("-Infinity")),
        (Decimal, Decimal("1E+999999")),
        (datetime, datetime(2024, 1, 1)),  # noqa: DTZ001
        (datetime, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
    ],
)
def test_a_value_that_no_node_would_take_is_refused_where_it_is_written(kind: type, value: Any) -> None:
    with pytest.raises(InvalidChange):
        converter_of(kind).encode(value, "it")


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2024-01-01T09:00:00+00:00", 0),
        ("2024-01-01T09:00:00Z", 0),
        ("2024-01-01T09:00:00.000Z", 0),
        ("2024-01-01T09:00:00.120Z", 120_000),
        ("2024-01-01T09:00:00.120000Z", 120_000),
        ("2024-01-01T09:00:00.123456+00:00", 123_456),
    ],
)
def test_a_time_may_be_written_as_javascript_writes_it(text: str, microsecond: int) -> None:
    assert converter_of(datetime).decode(text, "it") == datetime(2024, 1, 1, 9, 0, 0, microsecond, tzinfo=UTC)


OFFSETS = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=OFFSETS)  # noqa: DTZ001
    | st.dates()
    | st.uuids()
    | st.decimals(-(10**50), 10**50, allow_nan=False, allow_infinity=False)
)
def test_what_is_written_is_read_again(value: Any) -> None:
    converter = converter_of(type(value))
    assert converter.decode(converter.encode(value, "it"), "it") == value


@dataclass
class Account(Commands):
    balance: Decimal = Decimal(0)
    paid: dict[str, datetime] = field(default_factory=dict)

    @change
    def pay(self, name: str, amount: Decimal, at: datetime) -> None:
        if amount < 0 or any(at < before for before in self.paid.values()):
            raise ChangeRejected("neither back, nor before")
        self.balance += amount
        self.paid[name] = at


def test_hostile_arguments_are_rejected_and_stall_nobody(group: Group) -> None:
    # given
    a, b = group.primary(state=Account()), group.node("b", state=Account())
    at = datetime(2026, 1, 31, tzinfo=UTC)
    a.submit(Account.pay("first", Decimal(1), at))
    # when
    for amount, time in [("NaN", at.isoformat()), ("sNaN", at.isoformat()), ("1", "2026-02-01")]:
        with pytest.raises(InvalidChange):
            a.submit({"pay": {"name": "x", "amount": amount, "at": time}})
    # then
    a.submit(Account.pay("second", Decimal(1), at))
    in_step(a, b)
    assert (a.stalled, b.stalled) == (None, None)
