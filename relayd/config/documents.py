"""The documents generated from the sections: JSON Schema, sample file and relayd.yaml(5)."""

from __future__ import annotations

import json

from relayd.config.model import Config
from relayd.schema.json_schema import json_schema
from relayd.schema.manual import manual
from relayd.schema.sample import sample

SAMPLE_TITLE = (
    "Every key of relayd.yaml with its meaning and its default, all commented out; generated, see relayd.yaml(5). "
    "Copy the keys that you need into /etc/relayd.yaml, without the leading #, and run: relayd check"
)
DESCRIPTION = (
    "relayd reads one YAML file, `/etc/relayd.yaml`, and the files that it includes. `relayd check` reports whether it would "
    "be accepted, and every error with its line. `systemctl reload relayd` applies it, and changes nothing if it is rejected.",
    "Unknown keys, duplicate keys and several documents in one file are errors. A key that is not implemented yet is "
    "accepted with the warning `not in force yet`. Anchors, aliases and merging with << work within bounds: a file has at "
    "most 1 MiB, all files together 8 MiB, 32 levels and 200000 values.",
    "Below, `NAME` in a heading stands for a name that you choose, and `[]` for an item of a list.",
)
FILES = (
    ("/etc/relayd.yaml", "The configuration."),
    ("/etc/relayd.d/*.yaml", "Further files, if relayd.yaml includes them."),
    ("/etc/relayd/keys/", "Keys, one per file, readable only by relayd."),
    ("/etc/relayd/prices.yaml", "Prices of models, if relayd.yaml names this file; `relayd prices import` makes one."),
    ("/usr/share/doc/relayd/examples/prices.yaml", "An example of a price file."),
    ("/usr/share/doc/relayd/examples/relayd.full.yaml", "Every key with its meaning and default."),
)
EXAMPLE = """\
listeners:
  public: {address: "127.0.0.1:8282"}
upstreams:
  openai:
    protocol: openai_chat
    endpoints: ["https://api.openai.com/v1"]
    auth: {bearer: {file: /etc/relayd/keys/openai}}
consumers:
  team: {bearer: {file: /etc/relayd/keys/team}}
routes:
  - {name: llm, match: {prefix: /v1/}, upstream: openai, allow: [team]}
"""


def schema_text() -> str:
    return json.dumps(json_schema(Config, "relayd.yaml"), indent=2, ensure_ascii=False) + "\n"


def sample_text() -> str:
    return sample(Config, SAMPLE_TITLE)


def manual_text() -> str:
    return manual(
        Config, "relayd.yaml", title="configuration of relayd", description=DESCRIPTION, files=FILES, example=EXAMPLE,
        see_also="relayd(8), relayd-protocols(7), relayd-metrics(7), systemd.exec(5)",
    )
