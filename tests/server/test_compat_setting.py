"""The setting `compat`: where it may stand, and what it may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pabal.server.settings import SettingsError, load_settings


def test_sources(tmp_path: Path) -> None:
    file = tmp_path / "pabal.toml"
    file.write_text('compat = "rabbitmq-4.3"\n')
    assert load_settings(None, {}, {}).compat == "rabbitmq-3.12"
    assert load_settings(file, {}, {}).compat == "rabbitmq-4.3"
    assert load_settings(file, {"PABAL_COMPAT": "rabbitmq-3.12"}, {}).compat == "rabbitmq-3.12"
    assert load_settings(None, {"PABAL_COMPAT": "rabbitmq-3.12"}, {"compat": "rabbitmq-4.3"}).compat == "rabbitmq-4.3"


def test_values() -> None:
    with pytest.raises(
        SettingsError, match=r"the command line: compat = '4\.3': expected one of rabbitmq-3\.12, rabb"
    ):
        load_settings(None, {}, {"compat": "4.3"})


def test_a_frame_max_that_no_client_could_agree_to() -> None:
    frames = {"PABAL_FRAME_BYTES_MAX": "4096"}
    load_settings(None, frames, {})
    with pytest.raises(SettingsError, match=r"frame_bytes_max = 4096: rabbitmq-4\.3 takes no less than 8192"):
        load_settings(None, frames, {"compat": "rabbitmq-4.3"})
