"""SDKs for Python drive relayd over back-ends of every dialect: text, streams, tool loops, structured output, failures."""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.aids.sdk import http_of
from tests.functional.harness.dialects.gateway import BACKS, Gateway
from tests.functional.harness.dialects.said import LOOK_UP, Asked, Fail, Reply, Say, always, small_model

pytestmark = [
    pytest.mark.client, pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]  # fmt: skip
over_each = pytest.mark.parametrize("back", BACKS)
plain_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
PERSON = {"name": "Ada", "age": 36}
CUT = {"openai_chat": 3, "openai_responses": 3, "anthropic_messages": 5, "gemini": 2, "ollama": 2}


def module(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"no {name}: tests/clients/install.sh installs it")


def structured(asked: Asked) -> Reply:
    """JSON where a schema was sent in any dialect's words."""
    told = json.dumps(asked.body)
    return Say((json.dumps(PERSON),)) if '"age"' in told else small_model(asked)


@pytest.fixture
def base(running: Gateway) -> str:
    return f"http://127.0.0.1:{running.relay.port}"


@pytest.fixture
def chat(base: str) -> Iterator[Any]:
    with module("openai").OpenAI(base_url=base + "/v1", api_key="k", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def claude(base: str) -> Iterator[Any]:
    with module("anthropic").Anthropic(base_url=base, api_key="k", max_retries=0, timeout=60) as client:
        yield client


# ---- openai, Chat Completions

FUNCTION = {"type": "function", "function": {"name": "look_up", "strict": True, "parameters": LOOK_UP}}


@over_each
@plain_and_streamed
def test_openai_chat_tool_loop(back: str, stream: bool, chat: Any, running: Gateway) -> None:
    messages: list[Any] = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Weather?"}]
    for _ in range(2):
        if stream:
            with chat.chat.completions.stream(model=back, messages=messages, tools=[FUNCTION]) as events:
                for _event in events:
                    pass
                answer = events.get_final_completion().choices[0].message
        else:
            answer = chat.chat.completions.create(model=back, messages=messages, tools=[FUNCTION]).choices[0].message
        messages.append(answer.to_dict())
        for call in answer.tool_calls or ():
            city = json.loads(call.function.arguments)["city"]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": f"rain in {city}"})
    assert answer.content == "It is rain in Köln and rain in Bern."


@over_each
def test_openai_chat_structured_output(back: str, chat: Any, running: Gateway) -> None:
    pydantic = module("pydantic")

    class Person(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str
        age: int

    running.backs[back].brain = structured
    parsed = chat.chat.completions.parse(model=back, messages=[{"role": "user", "content": "Who?"}], response_format=Person)
    assert parsed.choices[0].message.parsed == Person(**PERSON)


@over_each
def test_openai_errors(back: str, chat: Any, running: Gateway) -> None:
    openai = module("openai")
    messages = [{"role": "user", "content": "x"}]
    for status, kind in ((400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.InternalServerError)):
        running.backs[back].brain = always(Fail(status))
        for call, asked in (
            (chat.chat.completions.create, {"messages": messages}),
            (chat.chat.completions.create, {"messages": messages, "stream": True}),
            (chat.responses.create, {"input": "x"}),
        ):
            with pytest.raises(kind) as caught:
                call(model=back, **asked)
            assert "The flux is not aligned." in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        chat.chat.completions.create(model="none", messages=messages)


@over_each
def test_openai_sees_that_a_stream_broke(back: str, chat: Any, running: Gateway) -> None:
    openai = module("openai")
    running.backs[back].brain = lambda asked: Say(("Half a", " sentence", "never"), breaks="cut", frames=CUT[back])
    heard = ""
    with pytest.raises((openai.APIError, http_of("openai").HTTPError)):
        for chunk in chat.chat.completions.create(model=back, messages=[{"role": "user", "content": "x"}], stream=True):
            heard += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert heard == "Half a sentence"
    if back == "openai_responses":  # which passes, with an error of its own kind at the end
        with pytest.raises(openai.APIError):
            list(chat.responses.create(model=back, input="x", stream=True))
        return
    last = list(chat.responses.create(model=back, input="x", stream=True))[-1]
    assert last.type == "response.failed" and last.response.error.message


def test_openai_embeddings_and_models(chat: Any, running: Gateway) -> None:
    found = chat.embeddings.create(model="openai_chat", input=["a", "b"])
    assert [list(one.embedding) for one in found.data] == [[0.25] * 3] * 2
    assert [model.id for model in chat.models.list()] == list(BACKS)
    assert chat.models.retrieve("gemini").id == "gemini"


# ---- openai, Responses

TOOL = {"type": "function", "name": "look_up", "strict": True, "parameters": LOOK_UP}


@over_each
@plain_and_streamed
@pytest.mark.parametrize("chained", [False, True], ids=["history", "chained"])
def test_openai_responses_tool_loop(back: str, stream: bool, chained: bool, chat: Any, running: Gateway) -> None:
    items: list[Any] = [{"role": "user", "content": "Weather?"}]
    previous: dict[str, Any] = {}
    for _ in range(2):
        asked = {"model": back, "input": items, "tools": [TOOL], **previous}
        if stream:
            with chat.responses.stream(**asked) as events:
                answer = events.get_final_response()
        else:
            answer = chat.responses.create(**asked)
        if chained:
            items, previous = [], {"previous_response_id": answer.id}
        else:
            items += [item.to_dict() for item in answer.output]
        for call in [item for item in answer.output if item.type == "function_call"]:
            city = json.loads(call.arguments)["city"]
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": f"rain in {city}"})
    assert answer.output_text == "It is rain in Köln and rain in Bern."


@over_each
def test_openai_responses_structured_output(back: str, chat: Any, running: Gateway) -> None:
    pydantic = module("pydantic")

    class Person(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str
        age: int

    running.backs[back].brain = structured
    assert chat.responses.parse(model=back, input="Who?", text_format=Person).output_parsed == Person(**PERSON)


def test_openai_responses_over_a_websocket(chat: Any, running: Gateway) -> None:
    module("websockets")
    with chat.responses.connect() as connection:
        previous: dict[str, Any] = {}
        for text in ("one", "two"):
            connection.response.create(model="openai_chat", input=text, store=False, **previous)
            for event in connection:
                if event.type == "response.completed":
                    previous = {"previous_response_id": event.response.id}
                    break
    assert [text for _, text in running.backs["openai_chat"].asked[-1].said] == ["one", "You said: one 🌧", "two"]


@over_each
@plain_and_streamed
def test_openai_agents(back: str, stream: bool, base: str, running: Gateway) -> None:
    openai, agents = module("openai"), module("agents")
    agents.set_tracing_disabled(True)

    def look_up(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    async def talk() -> str:
        async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="k", max_retries=0) as client:
            agent = agents.Agent(
                name="a", instructions="Be brief.", tools=[agents.function_tool(look_up)], model=agents.OpenAIResponsesModel(model=back, openai_client=client)
            )
            if not stream:
                return str((await agents.Runner.run(agent, "Weather?")).final_output)
            run = agents.Runner.run_streamed(agent, "Weather?")
            async for _ in run.stream_events():
                pass
            return str(run.final_output)

    assert asyncio.run(talk()) == "It is rain in Köln and rain in Bern."


# ---- langchain


@over_each
@plain_and_streamed
@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_langchain(back: str, stream: bool, responses: bool, base: str, running: Gateway) -> None:
    langchain, tools = module("langchain_openai"), module("langchain_core.tools")
    messages = module("langchain_core.messages")

    @tools.tool  # type: ignore[untyped-decorator]
    def look_up(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    model = langchain.ChatOpenAI(model=back, base_url=base + "/v1", api_key="k", use_responses_api=responses, max_retries=0)
    bound = model.bind_tools([look_up])
    history: list[Any] = [messages.HumanMessage("Weather?")]
    for _ in range(2):
        answer: Any = functools.reduce(operator.add, bound.stream(history)) if stream else bound.invoke(history)
        history.append(answer)
        history += [look_up.invoke(call) for call in answer.tool_calls]
    content = answer.content
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    assert content == "It is rain in Köln and rain in Bern."


# ---- anthropic


@over_each
@plain_and_streamed
def test_anthropic_tool_loop(back: str, stream: bool, claude: Any, running: Gateway) -> None:
    tool = {"name": "look_up", "description": "Weather.", "input_schema": LOOK_UP}
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    for _ in range(2):
        asked = {"model": back, "max_tokens": 400, "system": "Be brief.", "messages": messages, "tools": [tool]}
        if stream:
            with claude.messages.stream(**asked) as events:
                answer = events.get_final_message()
        else:
            answer = claude.messages.create(**asked)
        messages.append({"role": "assistant", "content": [block.to_dict() for block in answer.content]})
        calls = [block for block in answer.content if block.type == "tool_use"]
        assert answer.stop_reason == ("tool_use" if calls else "end_turn")
        if calls:
            results = [{"type": "tool_result", "tool_use_id": call.id, "content": f"rain in {call.input['city']}"} for call in calls]
            messages.append({"role": "user", "content": results})
    assert answer.content[-1].text == "It is rain in Köln and rain in Bern."


@over_each
def test_anthropic_errors(back: str, claude: Any, running: Gateway) -> None:
    anthropic = module("anthropic")
    ask = {"model": back, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    for status, kind in ((400, anthropic.BadRequestError), (429, anthropic.RateLimitError), (503, anthropic.InternalServerError)):
        running.backs[back].brain = always(Fail(status))
        with pytest.raises(kind) as caught:
            claude.messages.create(**ask)
        assert "The flux is not aligned." in str(caught.value)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(**ask | {"model": "none"})
    running.backs[back].brain = lambda asked: Say(("Half a", " sentence", "never"), breaks="cut", frames=CUT[back])
    heard = ""
    with pytest.raises((anthropic.APIError, http_of("anthropic").HTTPError)), claude.messages.stream(**ask) as events:
        for text in events.text_stream:
            heard += text
    assert heard == "Half a sentence"


def test_anthropic_counts_and_lists(claude: Any, running: Gateway) -> None:
    counted = claude.messages.count_tokens(model="gemini", messages=[{"role": "user", "content": "Hello world"}])
    assert 1 < counted.input_tokens < 20
    assert [model.id for model in claude.models.list()] == list(BACKS)


def test_ollama_lists(base: str, running: Gateway) -> None:
    ollama = module("ollama")
    with ollama.Client(host=base) as client:
        assert [model.model for model in client.list().models] == list(BACKS)


# ---- google-genai, which passes


@plain_and_streamed
def test_google_genai(stream: bool, base: str, running: Gateway) -> None:
    module("google.genai")
    from google import genai  # type: ignore[import-untyped,unused-ignore]

    called: list[str] = []

    def look_up(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return f"rain in {city}"

    client = genai.Client(api_key="k", http_options={"base_url": base})
    config = genai.types.GenerateContentConfig(tools=[look_up], system_instruction="Be brief.")
    if stream:
        text = "".join(chunk.text or "" for chunk in client.models.generate_content_stream(model="gemini", contents="Weather?", config=config))
    else:
        text = client.models.generate_content(model="gemini", contents="Weather?", config=config).text
    assert text.endswith("It is rain in Köln and rain in Bern.") and called == ["Köln", "Bern"]
    with pytest.raises(genai.errors.ClientError) as caught:
        client.models.generate_content(model="none", contents="x")
    assert caught.value.code == 404
    assert [model.name for model in client.models.list()] == [f"models/{name}" for name in BACKS]
    assert client.models.get(model="gemini").display_name == "gemini"
