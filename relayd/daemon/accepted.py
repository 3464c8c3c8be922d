"""The configuration that was in force last, for a start on a file that cannot be used any more."""

from __future__ import annotations

import os

from relayd.config.load import Loaded, load_texts
from relayd.daemon.generations import Generations
from relayd.daemon.keeper import KEEPER_VARIABLE, SUCCESSOR_VARIABLE
from relayd.daemon.preflight import preflight
from relayd.errors import ConfigError


def last_accepted() -> Loaded | None:
    """What a service goes on with when its file has faults: the configuration that was in force last. None where there
    is none, without a keeper, and in an upgrade, where the process that serves goes on instead."""
    if KEEPER_VARIABLE not in os.environ or SUCCESSOR_VARIABLE in os.environ:
        return None
    newest = Generations.of_service().newest()
    if newest is None or not newest.texts:
        return None
    try:
        loaded = load_texts(newest.texts)
        return None if preflight(loaded.config).faults else loaded
    except ConfigError:  # its keys are gone: the reasons that count are those of the file
        return None
