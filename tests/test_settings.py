"""The settings file: policies, operator policies and limits of vhosts, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pabal.model.definitions import PolicyDefinition, VhostLimitsDefinition
from pabal.server.settings import Settings, SettingsError, load_settings

WHOLE = """
vhosts = ["/", "staging"]

[[policies]]
name = "short"
pattern = "^jobs"
priority = 3
apply_to = "queues"
definition = { max-length = 10, overflow = "reject-publish" }

[[policies]]
name = "short"
vhost = "staging"
pattern = ""
[policies.definition]
message-ttl = 60000

[[operator_policies]]
name = "short"
pattern = ".*"
definition = { max-length = 1000 }

[vhost_limits."/"]
max-connections = 5
max-queues = -1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pabal.toml"


def load(file: Path, text: str) -> Settings:
    file.write_text(text)
    return load_settings(file, {}, {})


def refused(file: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(file, text)
    said = str(caught.value)
    assert said.startswith(f"{file}: ")
    assert "\n" not in said
    return said.removeprefix(f"{file}: ")


def test_policies_and_limits_are_read(file: Path) -> None:
    settings = load(file, WHOLE)
    short = {"max-length": 10, "overflow": "reject-publish"}
    assert settings.policies == (
        PolicyDefinition("/", "short", "^jobs", short, 3, "queues", from_settings=True),
        PolicyDefinition("staging", "short", "", {"message-ttl": 60000}, from_settings=True),
        PolicyDefinition("/", "short", ".*", {"max-length": 1000}, operator=True, from_settings=True),
    )
    assert settings.vhost_limits == (VhostLimitsDefinition("/", 5, None, from_settings=True),)


def test_they_come_from_the_file_only(file: Path) -> None:
    file.write_text("")
    assert load_settings(file, {"PABAL_POLICIES": "x", "PABAL_VHOST_LIMITS": "x"}, {}) == Settings()


POLICY = '[[policies]]\nname = "p"\npattern = "a"\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("policies = 1", "policies: expected tables, each beginning with [[policies]]"),
        ("[policies]\nname = 'p'", "policies: expected tables, each beginning with [[policies]]"),
        ("[[policies]]\npattern = 'a'", "policies, number 1: 'name' is missing"),
        (POLICY, "policies, the 'p' one: 'definition' is missing"),
        (POLICY + "definition = {}", "policies, the 'p' one: no policy provided"),
        (POLICY + "definition = 'x'", "policies, the 'p' one: definition = 'x': expected a table"),
        (POLICY + "priority = true", "policies, the 'p' one: priority = True: expected a whole number"),
        (
            POLICY + "apply-to = 'queues'",
            "policies, the 'p' one: there is no 'apply-to'; expected name, vhost, pattern, definition, priority, "
            "apply_to",
        ),
        (
            POLICY + "definition = { max-length = -1 }",
            "policies, the 'p' one: -1 is not a valid maximum length",
        ),
        (
            POLICY + "definition = { max-lenght = 1 }",
            "policies, the 'p' one: [{<<\"max-lenght\">>,1}] are not recognised policy settings",
        ),
        (
            "[[operator_policies]]\nname = 'o'\npattern = ''\ndefinition = { dead-letter-exchange = 'x' }",
            'operator_policies, the \'o\' one: [{<<"dead-letter-exchange">>,<<"x">>}] are not recognised policy '
            "settings",
        ),
        (
            "[[policies]]\nname = 'p'\npattern = '('\ndefinition = { max-length = 1 }",
            "policies, the 'p' one: pattern should be regular expression but is invalid: "
            '{"missing ), unterminated subpattern",0}',
        ),
        (
            f"{POLICY}definition = {{ max-length = 1 }}\n{POLICY}definition = {{ max-length = 2 }}",
            "policies, the 'p' one: there are two of that name in vhost '/'",
        ),
        ("vhost_limits = 1", 'vhost_limits: expected tables, each beginning with [vhost_limits."NAME"]'),
        (
            "[vhost_limits]\nmax-queues = 1",
            'vhost_limits: expected tables, each beginning with [vhost_limits."NAME"]',
        ),
        (
            '[vhost_limits."/"]\nmax_queues = 1',
            "vhost_limits, vhost '/': Unrecognised terms [{<<\"max_queues\">>,1}] in limits",
        ),
        (
            '[vhost_limits."/"]\nmax-queues = "x"',
            "vhost_limits, vhost '/': max-queues should be a number, actually was <<\"x\">>",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(file: Path, text: str, error: str) -> None:
    assert refused(file, text) == error
