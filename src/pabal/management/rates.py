"""Rates and samples as RabbitMQ's HTTP API shows them: `"publish": 7, "publish_details": {"rate": 0.4}`, and with
`msg_rates_age` and `msg_rates_incr` in the query the samples besides, the newest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pabal.broker.samples import SAMPLED, TOTALS, History, Samples
from pabal.model.limits import SAMPLE_MS, SAMPLES_SHOWN_MAX

Facts = dict[str, Any]

_NO_RATE: Final = 0.0
_SECONDS_MAX: Final = 2**31
_PLACES: Final = {name: place for place, name in enumerate(TOTALS)}
_HANDED: Final = tuple(_PLACES[name] for name in ("deliver", "deliver_no_ack", "get", "get_no_ack"))
assert TOTALS[: len(SAMPLED)] == SAMPLED


class Window(NamedTuple):
    """Which samples are asked for: so many, so far apart."""

    number: int
    step_ms: int


class Windows(NamedTuple):
    """What a query asks for of lengths of queues, of message rates and of rates of bytes; None: the rate only."""

    lengths: Window | None = None
    messages: Window | None = None
    data: Window | None = None


RATES_ONLY: Final = Windows()


def asked_windows(query: Mapping[str, str]) -> Windows:
    """From `lengths_age`, `lengths_incr` and so on, in seconds. What makes no sense is as if it was not there, as in
    RabbitMQ."""
    return Windows(_window(query, "lengths"), _window(query, "msg_rates"), _window(query, "data_rates"))


def _window(query: Mapping[str, str], kind: str) -> Window | None:
    try:
        age_s, step_s = int(query[f"{kind}_age"]), int(query[f"{kind}_incr"])
    except (KeyError, ValueError):
        return None
    if not (0 < age_s <= _SECONDS_MAX and 0 < step_s <= _SECONDS_MAX):
        return None
    return Window(min(age_s // step_s, SAMPLES_SHOWN_MAX - 1) + 1, step_s * 1000)


class Series:
    """The samples of one object, or of several together, for the members that they are asked for."""

    def __init__(self, samples: Samples, histories: Iterable[History | None], window: Window | None) -> None:
        known = [history for history in histories if history is not None]
        self._window = window
        self._rows: list[Sequence[int]] = []
        self._times: list[int] = []
        if window is not None:
            last_ms = samples.last_ms // window.step_ms * window.step_ms
            self._times = [last_ms - step * window.step_ms for step in range(window.number)]
        elif any(history.last_ms == samples.last_ms for history in known):
            self._times = [samples.last_ms, samples.before_ms]
        if self._times and known:
            several = [history.at(self._times) for history in known]
            self._rows = [
                [sum(column) for column in zip(*rows, strict=True)] if len(rows) > 1 else rows[0]
                for rows in zip(*several, strict=True)
            ]

    def details(self, name: str) -> Facts:
        """What goes with the value of this name."""
        values = [_value(row, name) for row in self._rows]
        window = self._window
        if window is None:
            return {"rate": _rate(values, self._times)}
        values = values or [0] * window.number
        span_s = (window.number - 1) * window.step_ms / 1000
        return {
            "rate": _rate(values, self._times),
            "samples": [
                {"sample": value, "timestamp": at_ms} for value, at_ms in zip(values, self._times, strict=True)
            ],
            "avg_rate": (values[0] - values[-1]) / span_s if span_s else _NO_RATE,
            "avg": sum(values) / len(values),
        }

    def with_details(self, values: Mapping[str, int]) -> Facts:
        """Each of these values, and what goes with it."""
        facts: Facts = {}
        for name, value in values.items():
            facts[name] = value
            facts[f"{name}_details"] = self.details(name)
        return facts


def _value(row: Sequence[int], name: str) -> int:
    if name == "deliver_get":
        return sum(row[place] for place in _HANDED)
    if name == "publish_in":
        name = "publish"
    if name == "messages":
        return row[_PLACES["messages_ready"]] + row[_PLACES["messages_unacknowledged"]]
    return row[_PLACES[name]]


def _rate(values: Sequence[int], times_ms: Sequence[int]) -> float:
    """Between the last two of them, a second."""
    if len(values) < 2:
        return _NO_RATE
    return round((values[0] - values[1]) * 1000 / max(times_ms[0] - times_ms[1], SAMPLE_MS // 2), 3)
