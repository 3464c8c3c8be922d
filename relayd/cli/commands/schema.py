"""`relayd schema`: JSON Schema, manual page and sample of relayd.yaml, generated from the declarations in the code."""

from __future__ import annotations

import argparse

from relayd.cli.output import out
from relayd.config.documents import manual_text, sample_text, schema_text

HELP = "print the JSON Schema, the manual page or the sample of relayd.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="JSON Schema (default)")
    form.add_argument("--man", dest="form", action="store_const", const="man", help="relayd.yaml(5) in roff")
    form.add_argument("--sample", dest="form", action="store_const", const="sample", help="every key, commented out")
    parser.set_defaults(form="json")


def run(arguments: argparse.Namespace) -> int:
    text = {"json": schema_text, "man": manual_text, "sample": sample_text}[arguments.form]()
    out(text.rstrip("\n"))
    return 0
