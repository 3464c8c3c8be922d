"""The fulfilment webhook of Dialogflow ES v2: a spoken question in, a short text out, with the session's history."""

from __future__ import annotations

from relayd.protocols.dialogflow.frontend import dialect

DIALECT = dialect()
