"""Scoring requests: the two payloads of Azure's chat models, read strictly.

{"input_data": {"input_string": [[{"role": "user", "content": "Hi"}]], "parameters": {"max_new_tokens": 50}}}
{"input_data": {"input_string": [{"role": "user", "content": "Hi"}], "parameters": {"max_new_tokens": 50}}}
"""

import json
from dataclasses import dataclass

Message = dict[str, str]

DEFAULT_NEW_TOKENS = 200
NOT_JSON = "The body must be JSON: send it with the header Content-Type: application/json."
SAMPLING = ("temperature", "top_p", "top_k")


class BadRequest(ValueError):
    """A payload that cannot be answered; the message says what to send instead."""


@dataclass(frozen=True)
class ChatRequest:
    conversations: list[list[Message]]
    # Arguments of transformers' generate.
    parameters: dict[str, float | int | bool]
    # Whether the caller sent a list of conversations and so waits for a list of texts.
    batched: bool


def parse_request(body: bytes) -> ChatRequest:
    """Raises: BadRequest with the place of the first mistake."""
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise BadRequest(f"The body is no JSON: {error}.") from error
    data = payload.get("input_data") if isinstance(payload, dict) else None
    data = data if isinstance(data, dict) else {}
    turns = data.get("input_string")
    if not isinstance(turns, list) or not turns:
        raise BadRequest(
            'The body has no messages. Send {"input_data": {"input_string": [{"role": "user", "content": "..."}], '
            '"parameters": {}}}, or a list of such conversations as input_string.'
        )
    batched = isinstance(turns[0], list)
    conversations = turns if batched else [turns]
    for number, conversation in enumerate(conversations, start=1):
        check_conversation(conversation, f"Conversation {number}")
    return ChatRequest(conversations, parse_parameters(data.get("parameters") or {}), batched)


def check_conversation(messages: object, label: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadRequest(f"{label} is no list of messages but {json.dumps(messages)[:80]}.")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise BadRequest(
                f'{label} has the message {json.dumps(message)[:80]}. Each needs "role" and "content" as text.'
            )
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    expected = [("user", "assistant")[position % 2] for position in range(len(spoken))]
    if not spoken or spoken != expected or spoken[-1] != "user":
        raise BadRequest(
            f"{label} has the roles {', '.join(roles)}. After an optional system message, roles must alternate between "
            "user and assistant, and the last must be user."
        )


def parse_parameters(given: object) -> dict[str, float | int | bool]:
    """Arguments for generate; without do_sample the answer is greedy and the sampling numbers have no effect."""
    if not isinstance(given, dict):
        raise BadRequest(f"parameters is no object but {json.dumps(given)[:80]}.")
    known = [*SAMPLING, "do_sample", "max_new_tokens"]
    if unknown := set(given) - set(known):
        raise BadRequest(f"Unknown parameters: {', '.join(sorted(unknown))}. Known are {', '.join(known)}.")
    new_tokens = given.get("max_new_tokens", DEFAULT_NEW_TOKENS)
    if not is_number(new_tokens, int) or new_tokens < 1:
        raise BadRequest(f"max_new_tokens is {json.dumps(new_tokens)}. Send a whole number of 1 or more.")
    if not isinstance(given.get("do_sample", False), bool):
        raise BadRequest(f"do_sample is {json.dumps(given['do_sample'])}. Send true or false.")
    sample, temperature = given.get("do_sample", False), given.get("temperature", 1.0)
    if not is_number(temperature, float) or temperature < 0 or (sample and temperature == 0):
        raise BadRequest(
            f"temperature is {json.dumps(given['temperature'])}. Send a number above 0, or do_sample false."
        )
    if not is_number(given.get("top_p", 1.0), float) or not 0 < given.get("top_p", 1.0) <= 1:
        raise BadRequest(f"top_p is {json.dumps(given['top_p'])}. Send a number above 0 and up to 1.")
    if not is_number(given.get("top_k", 50), int) or given.get("top_k", 50) < 1:
        raise BadRequest(f"top_k is {json.dumps(given['top_k'])}. Send a whole number of 1 or more.")
    sampling = {name: given[name] for name in SAMPLING if name in given} if sample else {}
    return {"max_new_tokens": new_tokens, "do_sample": sample, **sampling}


def is_number(value: object, kind: type[int] | type[float]) -> bool:
    """JSON has one kind of number, and Python counts true as 1."""
    return not isinstance(value, bool) and isinstance(value, int if kind is int else int | float)
