"""The fulfilment webhook of Dialogflow ES v2: answers a spoken question with a short text and remembers the session."""

from __future__ import annotations

from relayd.protocols.dialogflow.frontend import dialect

DIALECT = dialect()
