"""What only some brokers do, with libraries that take long to import and need not be installed."""

from __future__ import annotations

from pabal.broker.access import Tokens
from pabal.server.oauth_settings import OauthSettings
from pabal.server.settings import SettingsError


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
