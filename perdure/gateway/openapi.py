"""The OpenAPI 3.1 document of what is served, from the classes' own annotations and docstrings.

It promises what http.py does: each handler is a POST, a query is a GET as well; the arguments go
as an object of named or an array of positional ones; whatever fails is a problem with a code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from perdure.gateway.problem import CODES
from perdure.kind import Handler, Kind
from perdure.serde.schemas import Schema, SignatureSchema, signature_schemas

_JSON = "application/json"
_PROBLEM_JSON = "application/problem+json"

# What can come back from any call, from those that may change something, and when it comes.
_CALL_CODES = (
    *("bad-json", "invalid-key", "unauthorized", "forbidden"),
    *("unknown-class", "unknown-handler", "payload-too-large", "invalid-arguments"),
    *("handler-error", "overloaded", "unavailable", "object-quarantined", "timeout"),
)
_CHANGE_CODES = (
    *("conflict", "cancelled", "idempotency-mismatch", "outcome-unknown", "deadlock"),
    *("store-full", "store-unavailable"),
)

_TIMEOUT = {
    "name": "Perdure-Timeout",
    "in": "header",
    "description": "Seconds to wait for the result, also fractions. After that the answer is 504; "
    "the call itself goes on.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
    "example": 2.5,
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A name for this call, chosen by the client. The same key again brings the "
    "recorded answer and `Idempotent-Replayed: true`; with other arguments, 422.",
    "schema": {"type": "string", "minLength": 1},
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: answer 202 as soon as the call is durable; its result is at "
    "the `Location`.",
    "schema": {"type": "string"},
    "example": "respond-async",
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The number of the last item that the client has of the call with the same "
    "`Idempotency-Key`: what follows is sent.",
    "schema": {"type": "integer", "minimum": 0},
}
_PARAMETERS = {
    "IdempotencyKey": _IDEMPOTENCY_KEY,
    "LastEventId": _LAST_EVENT_ID,
    "Prefer": _PREFER,
    "Timeout": _TIMEOUT,
}

_ACCEPTED = {
    "description": "Accepted, with `Prefer: respond-async`: the call is durable and will be run.",
    "headers": {
        "Location": {
            "description": "Where the result will be; `?wait=seconds` waits for it.",
            "schema": {"type": "string"},
        }
    },
}
_REPLAYED = {
    "Idempotent-Replayed": {
        "description": "`true` if this is the recorded answer of an earlier call with the key.",
        "schema": {"type": "string", "const": "true"},
    }
}


def document(
    kinds: Iterable[Kind], *, title: str, version: str, prefix: str = ""
) -> dict[str, Any]:
    """The document for these classes, served below `prefix`.

    Raises InvalidClass for an annotation that cannot be resolved.
    """
    kinds = list(kinds)
    handlers = [(kind, handler) for kind in kinds for handler in kind.handlers.values()]
    schemas, classes = signature_schemas(
        (handler.signature for _, handler in handlers), ref_template="#/components/schemas/{name}"
    )
    problem = next(name for name in ("Problem", "PerdureProblem") if name not in classes)
    paths = {
        f"/{kind.name}/{{key}}/{handler.name}": _path_item(kind, handler, schema, classes)
        for (kind, handler), schema in zip(handlers, schemas, strict=True)
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "servers": [{"url": prefix or "/"}],
        "tags": [_tag(kind) for kind in kinds],
        "paths": paths,
        "components": {
            "schemas": {**classes, problem: _problem_schema()},
            "parameters": _PARAMETERS,
            "responses": dict(_problem_responses(problem)),
        },
    }


def _tag(kind: Kind) -> dict[str, Any]:
    # The class's own docstring: what Object says of itself describes none of its subclasses.
    doc = inspect.cleandoc(kind.cls.__doc__ or "")
    return {"name": kind.name, "description": doc} if doc else {"name": kind.name}


def _path_item(
    kind: Kind, handler: Handler, schema: SignatureSchema, classes: dict[str, Schema]
) -> dict[str, Any]:
    key = {
        "name": "key",
        "in": "path",
        "required": True,
        "description": "The object's name: 1 to 512 bytes of UTF-8; a slash in it is written %2F.",
        "schema": {"type": "string", "minLength": 1},
    }
    item: dict[str, Any] = {"parameters": [key], "post": _post(kind, handler, schema)}
    if handler.query and not handler.ephemeral:
        item["get"] = _get(kind, handler, schema, classes)
    return item


def _post(kind: Kind, handler: Handler, schema: SignatureSchema) -> dict[str, Any]:
    headers = ["Timeout"] if handler.query else ["IdempotencyKey", "Prefer", "Timeout"]
    if handler.streams and not handler.query:
        headers.append("LastEventId")
    operation: dict[str, Any] = {
        **_about(kind, handler, "post"),
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in headers],
        "responses": _responses(handler, schema.result),
    }
    if schema.parameters:
        operation["requestBody"] = {
            "required": any(one.parameter.required for one in schema.parameters),
            "content": {_JSON: {"schema": _body(schema)}},
        }
    return operation


def _body(schema: SignatureSchema) -> Schema:
    named = {"title": "Named arguments", **schema.named()}
    positional = schema.positional()
    if positional is None:
        return named
    return {"oneOf": [named, {"title": "Positional arguments", **positional}]}


def _get(
    kind: Kind, handler: Handler, schema: SignatureSchema, classes: dict[str, Schema]
) -> dict[str, Any]:
    return {
        **_about(kind, handler, "get"),
        "parameters": [
            *_query_parameters(schema, classes),
            {"$ref": "#/components/parameters/Timeout"},
        ],
        "responses": _responses(handler, schema.result),
    }


def _about(kind: Kind, handler: Handler, method: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "operationId": f"{kind.name}.{handler.name}.{method}",
        "tags": [kind.name],
    }
    if handler.doc:
        about["summary"] = handler.doc.partition("\n")[0]
        about["description"] = handler.doc
    return about


def _query_parameters(
    schema: SignatureSchema, classes: dict[str, Schema]
) -> Iterator[dict[str, Any]]:
    for parameter, one in schema.parameters:
        about: dict[str, Any] = {"name": parameter.name, "in": "query"}
        if parameter.required:
            about["required"] = True
        if parameter.kind is parameter.kind.VAR_KEYWORD:
            # Any further names: an exploded object is how OpenAPI says it.
            yield {**about, "schema": {"type": "object", "additionalProperties": one}}
        elif parameter.kind is parameter.kind.VAR_POSITIONAL:
            yield {**about, "schema": {"type": "array", "items": one}}
        elif _is_text(one, classes):
            yield {**about, "schema": one}
        else:
            yield {**about, "content": {_JSON: {"schema": one}}}


def _is_text(schema: Schema, classes: dict[str, Schema], *, in_array: bool = False) -> bool:
    """Whether a value is written as plain text in a query, and not as JSON."""
    name = schema.get("$ref", "").rpartition("/")[2]
    if name:
        return _is_text(classes.get(name, {}), classes, in_array=in_array)
    if "anyOf" in schema:
        return all(_is_text(one, classes, in_array=in_array) for one in schema["anyOf"])
    if schema.get("type") == "array":
        items = [*schema.get("prefixItems", []), schema.get("items") or {}]
        return not in_array and all(_is_text(one, classes, in_array=True) for one in items)
    return schema.get("type") != "object"


def _responses(handler: Handler, result: Schema) -> dict[str, Any]:
    codes = _CALL_CODES if handler.query else _CALL_CODES + _CHANGE_CODES
    statuses = sorted({CODES[code][0] for code in codes})
    answer: dict[str, Any] = {
        "description": "The result.",
        "content": {_JSON: {"schema": result}},
    }
    if handler.streams:
        answer = {
            "description": "The items, as they come: each an event whose id is its number (from "
            "1), or a line of JSON.",
            "content": {
                "text/event-stream": {"schema": {"type": "string"}},
                "application/x-ndjson": {"schema": result},
            },
        }
    responses: dict[str, Any] = {"200": answer}
    if not handler.query:
        answer["headers"] = _REPLAYED
        responses["202"] = _ACCEPTED
    for status in statuses:
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    return responses


def _problem_responses(schema: str) -> Iterator[tuple[str, dict[str, Any]]]:
    by_status: dict[int, list[str]] = {}
    for code in (*_CALL_CODES, *_CHANGE_CODES):
        by_status.setdefault(CODES[code][0], []).append(code)
    for status, codes in sorted(by_status.items()):
        lines = "\n".join(f"- `{code}`: {CODES[code][1]}" for code in codes)
        response: dict[str, Any] = {
            "description": lines,
            "content": {_PROBLEM_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        }
        if status == 503:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds after which to try again, where that may help.",
                    "schema": {"type": "integer"},
                }
            }
        yield f"Problem{status}", response


def _problem_schema() -> Schema:
    finding = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "Where, as in `$.by`."},
            "message": {"type": "string"},
        },
        "required": ["path", "message"],
    }
    return {
        "type": "object",
        "description": "What went wrong (RFC 9457). `code` is stable, the texts may improve.",
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "examples": [*_CALL_CODES, *_CHANGE_CODES]},
            "errors": {"type": "array", "items": finding},
            "error": {
                "type": "string",
                "description": "The bare class name of what was raised.",
            },
            "message": {"type": "string"},
        },
        "required": ["type", "title", "status", "code"],
    }
