"""Rates and samples: what the HTTP API says of what was counted, five seconds by five seconds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engine import Engine, TakingConsumer
from pabal.broker.clients import Encryption, Link
from pabal.broker.samples import Samples
from pabal.management import statistics
from pabal.management.rates import asked_windows
from pabal.model.limits import SAMPLES_MAX

START_MS = 1_700_000_000_000
ASKED = asked_windows({"msg_rates_age": "20", "msg_rates_incr": "5", "lengths_age": "20", "lengths_incr": "5"})


class Sampled(Engine):
    def sample(self, times: int = 1) -> Samples:
        for _ in range(times):
            self.advance(5000)
            self.broker.sample(self.now_ms)
        return self.broker.samples


@pytest.fixture
def engine() -> Sampled:
    engine = Sampled()
    engine.sample()
    return engine


def test_a_rate_is_that_of_the_last_five_seconds(engine: Sampled) -> None:
    queue = engine.queue()
    engine.publish(*"abcde")
    facts = statistics.queue(engine.broker, queue)
    assert facts["message_stats"]["publish"] == 5  # at once
    assert facts["message_stats"]["publish_details"] == {"rate": 0.0}
    engine.sample()
    facts = statistics.queue(engine.broker, queue)
    assert facts["message_stats"] == {"publish": 5, "publish_details": {"rate": 1.0}}
    assert (facts["messages_ready"], facts["messages_ready_details"]) == (5, {"rate": 1.0})
    engine.sample()
    assert statistics.queue(engine.broker, queue)["message_stats"]["publish_details"] == {"rate": 0.0}
    engine.sample(3)
    engine.publish("f")
    engine.sample()
    assert statistics.queue(engine.broker, queue)["message_stats"]["publish_details"] == {"rate": 0.2}


def test_lengths_shrink_at_a_rate_below_zero(engine: Sampled) -> None:
    queue = engine.queue()
    engine.publish(*"abcde")
    engine.sample()
    engine.drain()
    engine.sample()
    facts = statistics.queue(engine.broker, queue)
    assert facts["messages_details"] == {"rate": -1.0}
    assert facts["message_stats"]["deliver_get_details"] == {"rate": 1.0}


def test_samples_newest_first(engine: Sampled) -> None:
    queue = engine.queue()
    engine.publish(*"abc")
    engine.sample()
    engine.publish(*"de")
    engine.sample(2)
    stats = statistics.queue(engine.broker, queue, ASKED)["message_stats"]
    last_ms = engine.now_ms // 5000 * 5000
    assert stats["publish_details"] == {
        "rate": 0.0,
        "samples": [
            {"sample": value, "timestamp": last_ms - step * 5000} for step, value in enumerate((5, 5, 3, 0, 0))
        ],
        "avg_rate": 0.25,
        "avg": 2.6,
    }


def test_senseless_windows_are_ignored() -> None:
    for query in (
        {"lengths_age": "x", "lengths_incr": "5"},
        {"lengths_age": "5"},
        {"lengths_age": "5", "lengths_incr": "0"},
    ):
        assert asked_windows(query).lengths is None
    window = asked_windows({"lengths_age": "1000000000", "lengths_incr": "1"}).lengths
    assert window is not None and window.number <= 500


def test_the_broker_s_totals_outlive_queues(engine: Sampled) -> None:
    engine.queue("other")
    engine.publish(*"abcde")
    queue = engine.queue()
    engine.publish(*"abcde")
    engine.vhost.delete_queue(queue)
    engine.sample()
    facts = statistics.overview(engine.broker, list(engine.broker.vhosts.values()))
    assert facts["message_stats"]["publish"] == 10
    assert facts["message_stats"]["publish_details"] == {"rate": 2.0}
    assert facts["queue_totals"]["messages_ready"] == 0
    assert facts["object_totals"] == {"channels": 0, "connections": 0, "consumers": 0, "exchanges": 6, "queues": 1}
    assert facts["churn_rates"]["queue_created"] == 2
    assert facts["churn_rates"]["queue_created_details"] == {"rate": 0.4}


def test_some_vhosts_only(engine: Sampled) -> None:
    engine.broker.add_vhost("other")
    engine.queue()
    engine.publish("a")
    engine.sample()
    there = statistics.overview(engine.broker, [engine.broker.vhosts["/"]])
    assert there["message_stats"]["publish_details"] == {"rate": 0.2}
    other = statistics.overview(engine.broker, [engine.broker.vhosts["other"]])
    assert (other["message_stats"], other["queue_totals"]) == ({}, {})
    assert statistics.vhost(engine.broker, engine.broker.vhosts["/"])["messages"] == 1
    assert "message_stats" not in statistics.vhost(engine.broker, engine.broker.vhosts["other"])


def test_exchanges(engine: Sampled) -> None:
    exchange = engine.vhost.exchanges["amq.fanout"]
    assert statistics.exchange(engine.broker, exchange) == {}
    for name in ("one", "two"):
        engine.queue(name)
        engine.bind("amq.fanout", name)
    engine.publish("a", exchange="amq.fanout")
    engine.sample()
    assert statistics.exchange(engine.broker, exchange)["message_stats"] == {
        "publish_in": 1,
        "publish_in_details": {"rate": 0.2},
        "publish_out": 2,
        "publish_out_details": {"rate": 0.4},
    }


def test_a_backlog_from_before_is_no_rate(engine: Sampled) -> None:
    engine.queue()
    engine.publish(*"abcde")
    engine.commit()
    engine.restart()
    engine.sample()
    facts = statistics.queue(engine.broker, engine.vhost.queues["q"])
    assert (facts["messages"], facts["messages_details"]) == (5, {"rate": 0.0})
    assert "message_stats" not in facts
    total = statistics.overview(engine.broker, list(engine.broker.vhosts.values()), ASKED)
    assert [each["sample"] for each in total["queue_totals"]["messages_details"]["samples"]] == [5] * 5


def test_before_the_first_sample_nothing_was_counted() -> None:
    engine = Sampled()
    engine.queue()
    engine.publish(*"abc")
    engine.sample()
    total = statistics.overview(engine.broker, list(engine.broker.vhosts.values()), ASKED)
    assert [each["sample"] for each in total["message_stats"]["publish_details"]["samples"]] == [3, 0, 0, 0, 0]


def test_nothing_is_kept_of_who_is_idle_or_gone(engine: Sampled) -> None:
    queues = [engine.queue(f"q{number}") for number in range(5)]
    engine.publish("a", key="q0")
    samples = engine.sample()
    assert [queue.counters in samples.histories for queue in queues] == [True, False, False, False, False]
    for _ in range(3 * SAMPLES_MAX):
        engine.publish("b", key="q0")
        engine.sample()
    assert len(samples.histories[queues[0].counters]._points) == SAMPLES_MAX
    engine.sample(2 * SAMPLES_MAX)
    assert len(samples.histories[queues[0].counters]._points) == 1
    engine.vhost.delete_queue(queues[0])
    engine.sample()
    assert queues[0].counters not in samples.histories


def test_consumers_of_a_queue_with_a_single_active_one(engine: Sampled) -> None:
    queue = engine.queue(x_single_active_consumer=True)
    for tag in ("one", "two"):
        queue.add_consumer(TakingConsumer(queue, tag))
    shown = [statistics.consumer(consumer, "node") for consumer in queue.consumers]
    assert [(each["active"], each["activity_status"]) for each in shown] == [
        (True, "single_active"),
        (False, "waiting"),
    ]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("TLS_AES_256_GCM_SHA384", ("any", "aes_256_gcm", "sha384")),
        ("ECDHE-RSA-AES256-GCM-SHA384", ("ecdhe_rsa", "aes_256_gcm", "sha384")),
        ("", ("", "", "")),
    ],
)
def test_how_a_connection_is_encrypted(engine: Sampled, name: str, parts: tuple[str, str, str]) -> None:
    encryption = Encryption("TLSv1.3", name, "CN=anna")
    client = SimpleNamespace(
        link=Link("::1", 1, "::1", 5671, encryption), name="a", protocol="", public_state="", user="", vhost_name=""
    )
    client.__dict__.update(properties={}, mechanism="", since_ms=0, open_channels=[], channel_max=0)
    client.__dict__.update(frame_bytes_max=0, heartbeat_seconds=0)
    assert client.link.name == "[::1]:1 -> [::1]:5671"
    shown = statistics.connection(engine.broker, client, "node")  # type: ignore[arg-type]
    assert (shown["ssl_key_exchange"], shown["ssl_cipher"], shown["ssl_hash"]) == parts
    assert (shown["ssl"], shown["ssl_protocol"], shown["peer_cert_subject"]) == (True, "tlsv1.3", "CN=anna")
