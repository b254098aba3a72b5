"""Settings: defaults, then a TOML file, then PABAL_* variables, then the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from pabal.model import limits
from pabal.model.compatibility import COMPATIBILITIES
from pabal.model.definitions import PolicyDefinition, VhostLimitsDefinition
from pabal.model.passwords import check_hash
from pabal.server.oauth_settings import OauthSettings, take_oauth
from pabal.server.policy_settings import take_policies, take_vhost_limits

UNSET_PORT: Final = -1
"""A port that was not given."""


class SettingsError(Exception):
    """A setting is not valid. `str(error)` says which, where it came from and what it may be."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is a key of the TOML file, and in capitals behind PABAL_ a variable (but for those of FILE_ONLY)."""

    bind: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 5672
    """AMQP port; 0 for any free one, -1 for none: then there must be TLS."""
    tls_port: int = 5671
    """AMQP over TLS, when there is a certificate; 0 for none."""
    https_port: int = 15671
    """HTTPS, when there is a certificate; 0 for none."""
    tls_certificate: str = ""
    """A file with the certificate and those between it and the root, PEM. Without it there is no TLS."""
    tls_key: str = ""
    """A file with its key, when that is not in the same one."""
    tls_ca: str = ""
    """A file with the roots of clients' certificates."""
    tls_verify: str = "none"
    """Whether clients are asked for a certificate: none, optional (one that is shown must be good) or required."""
    tls_login_from: str = "distinguished_name"
    """What of it is the user name of EXTERNAL: distinguished_name, common_name or subject_alternative_name."""
    data: str = "pabal-data"
    """Data directory."""
    memory: bool = False
    """Keep nothing on disk."""
    http: bool = True
    """Serve the HTTP API."""
    http_port: int = UNSET_PORT
    """Port of the HTTP API; 0 for any free one, UNSET_PORT for 15672 (or any free one when `port` is 0)."""
    metrics: bool = True
    """Serve metrics without a password, on a port of their own. The HTTP API serves them with one."""
    metrics_port: int = UNSET_PORT
    """Port of the metrics; 0 for any free one, UNSET_PORT for 15692 (or any free one when `port` is 0)."""
    http_origins: tuple[str, ...] = ()
    """Origins whose pages may call the HTTP API from a browser (CORS)."""
    log_level: str = "info"
    """debug, info, warning or error."""
    log_format: str = "text"
    """text or json."""
    tracing: bool = False
    """Send spans of messages that carry a trace's context to an OpenTelemetry collector; its variables say where."""
    log_file: str = ""
    """Where the log goes instead of standard error. It may be moved away at any time."""
    frame_bytes_max: int = limits.FRAME_BYTES_MAX
    channel_max: int = limits.CHANNEL_MAX
    heartbeat_seconds: int = limits.HEARTBEAT_SECONDS
    message_bytes_max: int = limits.MESSAGE_BYTES_MAX
    connections_max: int = 10_000
    """Connections at once; further ones are closed at once."""
    connections_per_second_max: int = 1000
    """New ones; further ones wait. 0: any number."""
    disk_free_bytes_min: int = limits.DISK_FREE_BYTES_MIN
    """With less than this free, publishers are blocked; 0: never."""
    memory_bytes_max: int = 0
    """With more than this used, publishers are blocked; 0: `memory_percent_max` says how much."""
    memory_percent_max: int = 40
    """Of the memory that the machine, or the container, has; 0: no limit. Nothing when there is memory_bytes_max."""
    compat: str = "rabbitmq-3.12"
    """The release of RabbitMQ to stand for: one of model.compatibility.COMPATIBILITIES."""
    default_user: str = "guest"
    """An administrator, made when there is no user yet; empty for none. `guest` may come from this machine only."""
    default_password: str = "guest"
    default_password_file: str = ""
    """A file with it instead, as a container is given secrets."""
    vhosts: tuple[str, ...] = ("/",)
    """Made when missing."""
    users: Mapping[str, str] = field(default_factory=dict)
    """Name to password hash (`pabal hash-password`), made or changed at start. With none, `guest`, from this
    machine only."""
    policies: tuple[PolicyDefinition, ...] = ()
    """Of both kinds: `[[policies]]` and `[[operator_policies]]` of the file."""
    vhost_limits: tuple[VhostLimitsDefinition, ...] = ()
    oauth: OauthSettings | None = None
    """Tokens are taken as passwords."""


FILE_ONLY = ("users", "policies", "vhost_limits", "oauth")
_SECRET = ("default_password", "users")
"""Their values are in no message."""
_RANGES = {
    "port": (-1, 65_535),
    "tls_port": (0, 65_535),
    "https_port": (0, 65_535),
    "connections_per_second_max": (0, 1_000_000),
    "http_port": (UNSET_PORT, 65_535),
    "metrics_port": (UNSET_PORT, 65_535),
    "frame_bytes_max": (limits.FRAME_BYTES_MIN, 64 * 1024 * 1024),
    "channel_max": (1, 65_535),
    "heartbeat_seconds": (0, 65_535),
    "message_bytes_max": (1, 512 * 1024 * 1024),
    "connections_max": (1, 1_000_000),
    "disk_free_bytes_min": (0, 2**63 - 1),
    "memory_bytes_max": (0, 2**63 - 1),
    "memory_percent_max": (0, 100),
}
_CHOICES = {
    "log_format": ("text", "json"),
    "log_level": ("debug", "info", "warning", "error"),
    "compat": tuple(COMPATIBILITIES),
    "tls_verify": ("none", "optional", "required"),
    "tls_login_from": ("distinguished_name", "common_name", "subject_alternative_name"),
}


def load_settings(file: Path | None, environment: Mapping[str, str], given: Mapping[str, Any]) -> Settings:
    """Puts the sources together; `given` is the command line's, None values count as not given."""
    settings = Settings()
    if file is not None:
        values = _read_file(file)
        try:
            settings = replace(
                settings,
                policies=take_policies(values),
                vhost_limits=take_vhost_limits(values),
                oauth=take_oauth(values),
            )
        except ValueError as error:
            raise SettingsError(f"{file}: {error}") from None
        settings = _changed(settings, values, str(file))
    variables = {
        f.name: _from_text(f.name, environment[f"PABAL_{f.name.upper()}"])
        for f in fields(Settings)
        if f.name not in FILE_ONLY and f"PABAL_{f.name.upper()}" in environment
    }
    settings = _changed(settings, variables, "the environment")
    settings = _changed(settings, {k: v for k, v in given.items() if v is not None}, "the command line")
    if settings.default_password_file:
        settings = replace(settings, default_password=_read_secret(Path(settings.default_password_file)))
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    least = COMPATIBILITIES[settings.compat].frame_bytes_min
    if settings.frame_bytes_max < least:
        raise SettingsError(
            f"frame_bytes_max = {settings.frame_bytes_max}: {settings.compat} takes no less than {least}"
        )
    if not settings.tls_certificate:
        for name in ("tls_key", "tls_ca"):
            if getattr(settings, name):
                raise SettingsError(f"{name} without tls_certificate: there is no TLS without a certificate")
    if settings.tls_verify != "none" and not settings.tls_ca:
        raise SettingsError(f"tls_verify = '{settings.tls_verify}' without tls_ca: against what?")
    if settings.default_user not in ("", "guest") and settings.default_password == "guest":
        raise SettingsError(f"default_user = '{settings.default_user}' without default_password")
    if settings.port < 0 and not (settings.tls_certificate and settings.tls_port):
        raise SettingsError("port = -1 without tls_certificate and tls_port: nobody could connect")


def _read_file(file: Path) -> dict[str, Any]:
    import tomllib  # seldom needed, and it takes milliseconds

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from None


def _read_secret(file: Path) -> str:
    try:
        secret = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"default_password_file: {file}: {getattr(error, 'strerror', None) or error}") from None
    if not secret:
        raise SettingsError(f"default_password_file: {file} is empty")
    return secret


def _from_text(name: str, text: str) -> Any:
    kind = type(getattr(Settings(), name))
    if kind is bool:
        if text.lower() not in ("1", "0", "true", "false", "yes", "no"):
            raise SettingsError(f"PABAL_{name.upper()}={text!r}: expected true or false")
        return text.lower() in ("1", "true", "yes")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise SettingsError(f"PABAL_{name.upper()}={text!r}: expected a whole number") from None
    if kind is tuple:
        return [part for part in text.split(",") if part]
    return text


def _changed(settings: Settings, values: Mapping[str, Any], source: str) -> Settings:
    known = {f.name: type(getattr(settings, f.name)) for f in fields(Settings)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"{source}: there is no setting '{name}'")
        kind = known[name]
        if kind is tuple and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            value = tuple(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            shown = "" if name in _SECRET else f" = {value!r}"
            raise SettingsError(f"{source}: {name}{shown}: expected {_kind_name(kind)}")
        low, high = _RANGES.get(name, (None, None))
        if low is not None and not low <= value <= high:
            raise SettingsError(f"{source}: {name} = {value}: expected {low} to {high}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise SettingsError(f"{source}: {name} = {value!r}: expected one of {', '.join(_CHOICES[name])}")
        if name == "users":
            _check_users(value, source)
        checked[name] = value
    return replace(settings, **checked)


def _check_users(users: Mapping[str, Any], source: str) -> None:
    for name, kept in users.items():
        try:
            check_hash(kept if isinstance(kept, str) else "")
        except ValueError:
            expected = "expected what 'pabal hash-password' prints, not a password"
            raise SettingsError(f"{source}: users.{name}: {expected}") from None


def _kind_name(kind: type) -> str:
    names = {int: "a whole number", str: "a text", bool: "true or false", tuple: "a list of texts"}
    return names.get(kind, "a table")
