"""What the tests of the sections share: a configuration around one snippet, and its findings by path."""

from __future__ import annotations

import pytest

from relayd.config.load import load_text
from relayd.config.model import Config
from relayd.errors import ConfigError

FRAME = {
    "listeners": "{a: {address: '127.0.0.1:1'}}",
    "routes": "[{name: r, respond: 200}]",
}


def text_of(**sections: str) -> str:
    return "".join(f"{name}: {value}\n" for name, value in (FRAME | sections).items())


def accepted(**sections: str) -> tuple[Config, dict[str, str]]:
    """The configuration, and its warnings by path."""
    loaded = load_text(text_of(**sections), "c.yaml")
    return loaded.config, {one.path: one.message for one in loaded.warnings}


def faults(**sections: str) -> dict[str, str]:
    """The faults of a refused configuration by path."""
    with pytest.raises(ConfigError) as caught:
        load_text(text_of(**sections), "c.yaml")
    return {one.path: one.message for one in caught.value.findings if one.level == "error"}
