"""Stored responses: chains, item references, connections and consumers."""

from __future__ import annotations

from relayd.protocols.canon import Begin, End, Event, Failure, Finish, TextDelta, ToolDelta, ToolStart
from relayd.protocols.dialect import run_steps
from relayd.protocols.openai_responses import state
from relayd.protocols.openai_responses.renderer import ResponsesRenderer
from relayd.stores.memory import Store
from tests.aids.memories import Kept
from tests.unit.protocols.openai_responses.harness import (
    HELLO,
    make_context,
    over_websocket,
    plain,
    read,
    refusal,
    streamed,
)

F = {"type": "function", "name": "f"}
CALL: list[Event] = [Begin(), ToolStart(0, "c1", "f"), ToolDelta(0, "{}"), Finish("tool_calls"), End()]


def test_a_chain_contains_all_items_in_order_but_no_earlier_instructions() -> None:
    context = make_context()
    first = streamed(HELLO, context, input="one", instructions="old rules")
    second = plain(HELLO, context, input="two", previous_response_id=first["id"])
    third = read(context, input="three", previous_response_id=second["id"], instructions="new rules")
    texts = [(message.role, getattr(message.parts[0], "text", "")) for message in third.messages]
    assert texts == [("system", "new rules"), ("user", "one"), ("assistant", "Hello"), ("user", "two"),
                     ("assistant", "Hello"), ("user", "three")]  # fmt: skip
    assert second["previous_response_id"] == first["id"]


def test_a_tool_loop_continues_by_response_id() -> None:
    context = make_context()
    first = streamed(CALL, context, tools=[F])
    output = [{"type": "function_call_output", "call_id": "c1", "output": "7"}]
    request = read(context, input=output, previous_response_id=first["id"], tools=[F])
    assert [message.role for message in request.messages] == ["user", "assistant", "tool"]


def test_an_unknown_id_is_refused() -> None:
    refused = refusal(previous_response_id="resp_none")
    assert (refused.status, refused.code, refused.param) == (400, "previous_response_not_found", "previous_response_id")


def test_a_foreign_consumer_does_not_find_a_response() -> None:
    store = Store(100, 1 << 20, 60)
    mine, other = make_context(memory=store.space("mine")), make_context(memory=store.space("other"))
    first = streamed(HELLO, mine)
    assert read(mine, previous_response_id=first["id"]).messages
    assert refusal(other, previous_response_id=first["id"]).code == "previous_response_not_found"


def test_a_response_with_store_false_is_not_stored() -> None:
    context = make_context()
    first = streamed(HELLO, context, store=False)
    assert refusal(context, previous_response_id=first["id"]).code == "previous_response_not_found"
    assert isinstance(context.memory, Kept) and not context.memory.values


def test_a_failed_response_cannot_be_continued() -> None:
    context = make_context()
    failed = streamed([Begin(), TextDelta("a"), Failure(502, "cut")], context)
    assert refusal(context, previous_response_id=failed["id"]).code == "previous_response_not_found"


def test_a_response_is_stored_before_its_last_bytes_are_sent() -> None:
    context = make_context()
    renderer = ResponsesRenderer(read(context, stream=True), context)
    renderer.render(HELLO)
    assert isinstance(context.memory, Kept)
    [key] = [key for key in context.memory.values if key.startswith("response:")]
    assert read(context, previous_response_id=key.removeprefix("response:")).messages


def test_an_item_reference_is_resolved_from_the_store() -> None:
    context = make_context()
    first = streamed(HELLO, context)
    item_id = first["output"][0]["id"]
    for reference in ({"type": "item_reference", "id": item_id}, {"id": item_id}, {"type": None, "id": item_id}):
        request = read(context, input=[{"role": "user", "content": "one"}, reference, {"role": "user", "content": "two"}])
        assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    refused = refusal(context, input=[{"type": "item_reference", "id": "msg_none"}])
    assert (refused.param, refused.code) == ("input[0].id", "item_not_found")
    assert refusal(make_context(), input=[{"type": "item_reference", "id": item_id}]).code == "item_not_found"


def test_a_reference_to_an_item_of_the_same_conversation_needs_no_store() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"}
    answer = {"type": "function_call_output", "call_id": "c1", "output": "x"}
    request = read(input=[call, answer, {"role": "user", "content": "x"}, {"type": "item_reference", "id": "fc_1"}, answer])
    assert [message.role for message in request.messages] == ["assistant", "tool", "user", "assistant", "tool"]


def test_a_connection_keeps_its_latest_response_only() -> None:
    context = make_context(socket=Kept())
    first = over_websocket(HELLO, context, store=False)
    second = over_websocket(HELLO, context, store=False, previous_response_id=first["id"])
    assert len(read(context, previous_response_id=second["id"]).messages) == 5
    assert refusal(context, previous_response_id=first["id"]).code == "previous_response_not_found"


def test_another_connection_finds_only_stored_responses() -> None:
    memory = Kept()
    one, two = make_context(memory=memory, socket=Kept()), make_context(memory=memory, socket=Kept())
    stored = over_websocket(HELLO, one)
    hidden = over_websocket(HELLO, one, store=False)
    assert read(two, previous_response_id=stored["id"]).messages
    assert refusal(two, previous_response_id=hidden["id"]).code == "previous_response_not_found"


def test_a_failed_continuation_keeps_the_stored_response() -> None:
    context = make_context(socket=Kept())
    stored = over_websocket(HELLO, context)
    renderer = ResponsesRenderer(read(context, previous_response_id=stored["id"]), context)
    renderer.messages([Begin(), Failure(502, "cut")])
    assert context.socket is not None and context.socket.get("latest_response") is None
    assert read(context, previous_response_id=stored["id"]).messages


def test_deleting_a_response_deletes_the_index_of_its_items() -> None:
    context = make_context(socket=Kept())
    first = over_websocket(HELLO, context)
    record = run_steps(state.stored_response_steps(context, first["id"]))
    assert record is not None
    run_steps(state.delete_steps(context, record))
    assert run_steps(state.stored_response_steps(context, first["id"])) is None
    assert isinstance(context.memory, Kept) and not context.memory.values
    assert refusal(context, previous_response_id=first["id"]).code == "previous_response_not_found"


def test_an_item_is_listed_with_an_id_and_parts() -> None:
    shown = state.listed_item({"type": "message", "role": "user", "content": "x"})
    assert shown["id"].startswith("msg_") and shown["content"] == [{"type": "input_text", "text": "x"}]
    assert state.listed_item({"type": "function_call_output", "id": "mine", "call_id": "c", "output": "x"})["id"] == "mine"


def test_ids_cannot_be_guessed_and_have_their_prefix() -> None:
    assert state.new_id("resp") != state.new_id("resp") and len(state.new_id("resp")) > 40


def test_an_overlong_id_is_not_looked_up() -> None:
    assert run_steps(state.stored_response_steps(make_context(), "x" * 1000)) is None
