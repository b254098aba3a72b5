"""Lists and single things: what goes to a pipe, JSON, columns, sorting, --quiet."""

from __future__ import annotations

import pytest

from .answers import CONNECTION, MESSAGE, NODE, ORDERS, OVERVIEW, USER, WORK
from .conftest import Run
from .fake_api import FakeApi


@pytest.fixture
def queues(api: FakeApi) -> FakeApi:
    api.answer("GET", "queues", [WORK, ORDERS])
    return api


def test_a_pipe_gets_tabs_whole_values_and_no_heading(queues: FakeApi, run: Run) -> None:
    ran = run("queues")
    assert ran.code == 0
    assert [line.split("\t") for line in ran.lines] == [
        ["orders", "shop", "quorum", "3", "0", "0", "", "", "30", "retries"],
        ["work", "/", "classic", "1000", "5", "1", "12.4", "3000", "1500000", ""],
    ]


def test_a_noun_alone_is_its_list(queues: FakeApi, run: Run) -> None:
    assert run("queues").out == run("queues", "list").out != ""


def test_json_is_what_the_api_gave(queues: FakeApi, run: Run) -> None:
    assert run("queues", "--json").json == [ORDERS, WORK]


@pytest.mark.parametrize(
    "arguments",
    [("--json", "queues"), ("queues", "--json"), ("queues", "--json", "list"), ("queues", "list", "--json")],
)
def test_shared_options_stand_anywhere(queues: FakeApi, run: Run, arguments: tuple[str, ...]) -> None:
    assert [row["name"] for row in run(*arguments).json] == ["orders", "work"]


def test_columns_choose_fields_by_their_json_names(queues: FakeApi, run: Run) -> None:
    arguments = ("queues", "--columns", "name,arguments.x-message-ttl,ready")
    assert [line.split("\t") for line in run(*arguments).lines] == [["orders", "", "3"], ["work", "60000", "1000"]]
    assert run(*arguments, "--json").json[1] == {
        "name": "work",
        "arguments.x-message-ttl": 60000,
        "messages_ready": 1000,
    }


@pytest.mark.parametrize(
    ("sort", "first"),
    [("ready", "orders"), ("-ready", "work"), ("messages_ready", "orders"), ("OUT/S", "orders"), ("-name", "work")],
)
def test_sorting(queues: FakeApi, run: Run, sort: str, first: str) -> None:
    assert run("queues", "--sort", sort).lines[0].split("\t")[0] == first


def test_sorting_by_what_is_not_there_is_wrong_usage(queues: FakeApi, run: Run) -> None:
    ran = run("queues", "--sort", "size")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "pabal: --sort size: no row has such a field; --json shows what there is\n"


def test_quiet_prints_names_only(queues: FakeApi, run: Run) -> None:
    assert run("queues", "-q").lines == ["orders", "work"]


def test_a_pattern_restricts_the_list(queues: FakeApi, run: Run) -> None:
    assert run("queues", "list", "^wo", "-q").lines == ["work"]


def test_a_vhost_restricts_the_list(api: FakeApi, run: Run) -> None:
    api.answer("GET", "queues/a%2Fb", [ORDERS])
    assert run("queues", "-q", "-V", "a/b").lines == ["orders"]
    assert run("queues", "-q", env={"PABAL_VHOST": "a/b"}).lines == ["orders"]


def test_the_command_line_comes_before_the_environment(api: FakeApi, run: Run) -> None:
    api.answer("GET", "queues/x", [ORDERS])
    assert run("--vhost", "x", "queues", "-q", env={"PABAL_VHOST": "y"}).lines == ["orders"]
    assert run("queues", "-q", "--vhost", "x", env={"PABAL_VHOST": "y"}).lines == ["orders"]


def test_names_cannot_steer_a_terminal_or_break_a_line(api: FakeApi, run: Run) -> None:
    api.answer("GET", "queues", [{**WORK, "name": "a\x1b[2J\tb\nc\u202e"}])
    assert run("queues").lines[0].split("\t")[0] == "a\\x1b[2J\\tb\\nc\\u202e"


def test_one_queue(api: FakeApi, run: Run) -> None:
    api.answer("GET", "queues/%2F/work", WORK)
    ran = run("queues", "show", "work")
    assert "messages_ready\t1000" in ran.lines
    assert 'arguments\t{"x-message-ttl": 60000}' in ran.lines
    assert "durable\ttrue" in ran.lines
    assert run("queues", "show", "work", "--json").json == WORK


def test_bindings_of_the_default_exchange_are_left_out(api: FakeApi, run: Run) -> None:
    common = {"vhost": "/", "destination": "q", "destination_type": "queue", "arguments": {}, "routing_key": "k"}
    api.answer(
        "GET", "bindings", [{**common, "source": "", "properties_key": "q"}, {**common, "source": "amq.topic"}]
    )
    assert run("bindings").lines == ["amq.topic\t/\tq\tqueue\tk\t"]
    assert len(run("bindings", "--all").lines) == 2
    assert run("bindings", "--vhost", "/", "--from", "x").code == 1, "asks for another path, which is not there"
    assert run("bindings", "--from", "amq.direct").lines == []


def test_connections_say_what_the_client_calls_itself(api: FakeApi, run: Run) -> None:
    api.answer("GET", "connections", [CONNECTION])
    assert run("connections").lines[0].split("\t")[3] == "billing (Pika 1.4.4)"
    assert run("connections", "--json").json == [CONNECTION]


@pytest.mark.parametrize("name", ["127.0.0.1:38526", "billing", CONNECTION["name"]])
def test_a_connection_is_found_by_part_of_its_name(api: FakeApi, run: Run, name: str) -> None:
    api.answer(
        "GET", "connections", [CONNECTION, {**CONNECTION, "name": "127.0.0.1:9 -> x", "client_properties": {}}]
    )
    assert f"name\t{CONNECTION['name']}" in run("connections", "show", name).lines


def test_a_part_of_several_names_is_refused(api: FakeApi, run: Run) -> None:
    api.answer("GET", "connections", [CONNECTION, {**CONNECTION, "name": "127.0.0.1:38527 -> 127.0.0.1:5672"}])
    ran = run("connections", "close", "127.0.0.1:3852")
    assert (ran.code, api.changes()) == (1, [])
    assert "2 connections fit '127.0.0.1:3852'" in ran.err


def test_users_are_shown_without_their_hashes(api: FakeApi, run: Run) -> None:
    api.answer("GET", "users", [USER])
    api.answer("GET", "users/ann", USER)
    for arguments in (("users",), ("users", "--json"), ("users", "show", "ann"), ("users", "show", "ann", "--json")):
        ran = run(*arguments)
        assert ran.code == 0
        assert "ann" in ran.out
        assert "SECRETHASH" not in ran.out


def test_limits_of_vhosts_and_users_are_one_list(api: FakeApi, run: Run) -> None:
    api.answer("GET", "vhost-limits", [{"vhost": "/", "value": {"max-queues": 5, "max-connections": 7}}])
    api.answer("GET", "user-limits", [{"user": "ann", "value": {"max-channels": 3}}])
    assert run("limits").lines == [
        "user\tann\tmax-channels\t3",
        "vhost\t/\tmax-connections\t7",
        "vhost\t/\tmax-queues\t5",
    ]


def test_status(api: FakeApi, run: Run) -> None:
    api.answer("GET", "overview", OVERVIEW)
    api.answer("GET", "nodes/pabal%40here", NODE)
    ran = run("status")
    for line in (
        "node\tpabal@here",
        "product_version\t0.1.0",
        "form\tcompiled",
        "uptime\t93784000",
        "alarms\t",
        "queue_totals.messages_ready\t1003",
        "listening\tamqp://127.0.0.1:5672,http://[::]:15672",
    ):
        assert line in ran.lines, ran.out
    assert run("status", "--json").json == {"overview": OVERVIEW, "node": NODE, "alarms": []}


def test_status_check_ends_with_1_while_there_is_an_alarm(api: FakeApi, run: Run) -> None:
    api.answer("GET", "overview", OVERVIEW)
    api.answer("GET", "nodes/pabal%40here", NODE)
    assert run("status", "--check", "-q").code == 0
    api.answer("GET", "nodes/pabal%40here", {**NODE, "disk_free_alarm": True})
    assert run("status", "--check", "-q").code == 1
    assert run("status").code == 0


def test_status_without_the_right_to_monitor(api: FakeApi, run: Run) -> None:
    api.answer("GET", "overview", OVERVIEW)
    api.answer("GET", "nodes/pabal%40here", {"error": "not_authorised", "reason": "Not monitor user"}, 401)
    ran = run("status")
    assert ran.code == 0
    assert "object_totals.queues\t2" in ran.lines


def test_top_once(api: FakeApi, run: Run) -> None:
    fields = "name,vhost,messages_ready,messages_unacknowledged,message_stats.publish_details.rate"
    fields += ",message_stats.deliver_get_details.rate,message_stats.ack_details.rate,consumers,memory"
    from urllib.parse import urlencode

    api.answer("GET", "overview", OVERVIEW)
    api.answer("GET", "nodes/pabal%40here", NODE)
    api.answer("GET", "queues?" + urlencode({"columns": fields}), [ORDERS, WORK])
    first, second = (line.split("\t") for line in run("top", "--once").lines)
    assert first == ["work", "/", "1000", "5", "12.4", "3000", "2999", "1", "2000000"]
    assert second[0] == "orders"
    assert run("top", "--once", "--sort", "name", "-q").lines == ["orders", "work"]
    assert set(run("top", "--once", "--json").json) == {"overview", "node", "queues"}
    ran = run("top")
    assert (ran.code, ran.err) == (2, "pabal: `pabal top` is for a terminal; --once prints it once\n")


def test_get_prints_what_scripts_need(api: FakeApi, run: Run) -> None:
    api.answer("POST", "queues/%2F/work/get", [MESSAGE])
    assert run("get", "work").lines == ['work\ttrue\tm1\t{"a": 1}\thello']
    assert run("get", "work", "--body").out == "hello\n"
    assert run("get", "work", "--json").json == [MESSAGE]
    api.answer("POST", "queues/%2F/work/get", [{**MESSAGE, "payload": "/wA=", "payload_encoding": "base64"}])
    assert run("get", "work").lines == ['work\ttrue\tm1\t{"a": 1}\t\\xff\\x00']
