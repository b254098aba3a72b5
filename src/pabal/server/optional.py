"""What only some brokers do, with libraries that take long to import and need not be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pabal.broker.access import Tokens
from pabal.broker.broker import Broker
from pabal.server.oauth_settings import OauthSettings
from pabal.server.settings import SettingsError

if TYPE_CHECKING:
    from pabal.server.tracing import MessageTraces


def token_reader(settings: OauthSettings) -> Tokens:
    """SettingsError: what it takes is not installed, or a key cannot be used."""
    try:
        from pabal.server.oauth import TokenReader
    except ImportError as error:
        raise SettingsError(f"oauth: {error}; pip install 'pabal[oauth]'") from None
    try:
        return TokenReader(settings)
    except (OSError, ValueError) as error:
        raise SettingsError(f"oauth: {error}") from None


def open_traces(broker: Broker) -> MessageTraces:
    """Spans of messages from now on. SettingsError: what it takes is not installed, or a variable is not valid."""
    try:
        from pabal.server.tracing import MessageTraces, open_provider
    except ImportError as error:
        raise SettingsError(f"tracing: {error}; pip install 'pabal[otel]'") from None
    try:
        traces = MessageTraces(broker, open_provider())
    except (OSError, ValueError) as error:
        raise SettingsError(f"tracing: {error}") from None
    broker.observer = traces
    return traces
