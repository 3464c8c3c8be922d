"""The last accepted configuration: the fallback of a start whose file is invalid."""

from __future__ import annotations

import os

from relayd.config.load import Loaded, load_texts
from relayd.daemon.generations import Generations
from relayd.daemon.keeper import KEEPER_VARIABLE, SUCCESSOR_VARIABLE
from relayd.daemon.preflight import preflight
from relayd.errors import ConfigError


def last_accepted() -> Loaded | None:
    """The last accepted configuration, as a fallback. None if none is saved or usable, without a keeper, and in an
    upgrade, in which the current process continues instead."""
    if KEEPER_VARIABLE not in os.environ or SUCCESSOR_VARIABLE in os.environ:
        return None
    newest = Generations.of_service().newest()
    if newest is None or not newest.texts:
        return None
    try:
        loaded = load_texts(newest.texts)
        return None if preflight(loaded.config).faults else loaded
    except ConfigError:  # no longer valid, for example without its keys: the errors of the file are reported
        return None
