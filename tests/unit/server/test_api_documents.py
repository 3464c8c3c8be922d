"""The pages made from the OpenAPI document: escaped, without scripts but one, and made anew for each generation."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from relayd.protocols.dialect import run_steps
from relayd.server.api_documents import DOCS, DOCUMENT, REDOC, ApiDocuments
from tests.unit.proxy.fakes import plan_of
from tests.unit.server.test_openapi import PLAN, running


async def test_the_pages_permit_their_own_style_and_script_only() -> None:
    async with running() as views:
        documents = ApiDocuments(views, {})
        for path, scripts in ((DOCS, 1), (REDOC, 0)):
            made = run_steps(documents.steps(path))
            policy, page = made.response.get(b"content-security-policy"), made.body.decode()
            assert page.count("<script") == scripts and "unsafe" not in policy and bool(page.count("<form")) is bool(scripts)
            for name in ("style", "script"):
                for text in re.findall(f"<{name}>(.*?)</{name}>", page, re.DOTALL):
                    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                    assert f"{name}-src 'sha256-{digest}'" in policy


async def test_names_of_the_configuration_are_escaped() -> None:
    async with running() as views:
        views.gateway.plan = plan_of(f'{PLAN}routes: [{{name: "a", match: {{path: "/x<b>/chat/completions"}}, protocol: openai_chat, upstream: web}}]\n')
        page = run_steps(ApiDocuments(views, {}).steps(DOCS)).body
        assert b"<b>" not in page


async def test_documents_are_made_anew_for_a_new_generation_only() -> None:
    async with running() as views:
        documents = ApiDocuments(views, {})
        first = run_steps(documents.steps(DOCUMENT))
        assert run_steps(documents.steps(DOCUMENT)) is first and "/v1/chat/completions" not in json.loads(first.body)["paths"]
        views.gateway.plan = plan_of(f"{PLAN}routes: [{{name: a, protocol: openai_chat, upstream: web}}]\n")
        second = run_steps(documents.steps(DOCUMENT))
        assert second is not first and "/v1/chat/completions" in json.loads(second.body)["paths"]
