"""JSON Schemas of what handlers take and give, for documents that describe them.

They say what readers.py reads, since they are made from the same types: msgspec's schemas, with
those of refs, pydantic models and ambiguous unions put in where a stand-in is. All types of a
document are described in one go, so that each class has one name in it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from perdure.annotations import name_of
from perdure.errors import NotSerializable
from perdure.parameters import Parameter
from perdure.readers import (
    ChoiceReading,
    PydanticReading,
    Reading,
    RecordReading,
    RefReading,
    UnionReading,
    reading_of,
)
from perdure.ref import Ref
from perdure.signature import Signature
from perdure.writers import to_json

Schema = dict[str, Any]

_PLACE = "perdure-stand-in"


class ParameterSchema(NamedTuple):
    """A parameter and the schema of one value for it."""

    parameter: Parameter
    schema: Schema


class SignatureSchema(NamedTuple):
    """What a handler takes and gives."""

    parameters: list[ParameterSchema]
    result: Schema

    def named(self) -> Schema:
        """The arguments as an object."""
        schema: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
        required = []
        for parameter, one in self.parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                schema["additionalProperties"] = one
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                schema["properties"][parameter.name] = {"type": "array", "items": one}
            else:
                schema["properties"][parameter.name] = one
            if parameter.required:
                required.append(parameter.name)
        return {**schema, "required": required} if required else schema

    def positional(self) -> Schema | None:
        """The arguments as an array; None if there are some that have to be named."""
        leading = [one for one in self.parameters if one.parameter.positional]
        if any(one.parameter.required for one in self.parameters if one not in leading):
            return None
        schema: Schema = {"type": "array"}
        if leading:
            schema["prefixItems"] = [one.schema for one in leading]
            schema["minItems"] = sum(one.parameter.required for one in leading)
        for parameter, one in self.parameters:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                return {**schema, "items": one}
        return {**schema, "maxItems": len(leading)}


def signature_schemas(
    signatures: Iterable[Signature], *, ref_template: str = "#/$defs/{name}"
) -> tuple[list[SignatureSchema], dict[str, Schema]]:
    """The schemas of each signature, in order, and those of the classes they refer to."""
    signatures = list(signatures)
    types: list[Any] = []
    for signature in signatures:
        types += [parameter.type for parameter in signature.resolved()]
        types.append(signature.result_type)
    schemas, classes = schemas_of(types, ref_template=ref_template)
    found = iter(schemas)
    described = [
        SignatureSchema(
            [
                ParameterSchema(parameter, _with_default(parameter, next(found)))
                for parameter in signature.resolved()
            ],
            next(found),
        )
        for signature in signatures
    ]
    return described, classes


def schemas_of(
    types: Iterable[Any], *, ref_template: str = "#/$defs/{name}"
) -> tuple[list[Schema], dict[str, Schema]]:
    """The schema of each type that `json_type` gave, and those of the classes they refer to."""
    return _Describer(list(types), ref_template).described()


def _with_default(parameter: Parameter, schema: Schema) -> Schema:
    if parameter.required or parameter.variadic:
        return schema
    try:
        return {**schema, "default": json.loads(to_json(parameter.default))}
    except NotSerializable:
        return schema


class _Describer:
    def __init__(self, types: list[Any], ref_template: str) -> None:
        self._types = types
        self._ref_template = ref_template
        self._readings: list[Reading] = []
        self._parts: list[Schema] = []
        self._starts: dict[int, int] = {}
        self._records: dict[Any, int] = {}
        self._classes: dict[str, Schema] = {}

    def described(self) -> tuple[list[Schema], dict[str, Schema]]:
        # What stand-ins are made of may hold further ones: go on until no new one turns up. Each
        # time all types are described together, since msgspec names the classes of one go apart.
        while True:
            before = len(self._readings)
            types = self._types + [part for reading in self._readings for part in reading.parts]
            schemas, classes = msgspec.json.schema_components(
                types, schema_hook=self._place_for, ref_template=self._ref_template
            )
            if len(self._readings) == before:
                break
        own = len(self._types)
        start = own
        for index, reading in enumerate(self._readings):
            self._starts[index] = start
            start += len(reading.parts)
        self._parts = list(schemas)
        self._classes = dict(classes)
        found = [self._filled(schema) for schema in schemas[:own]]
        for name in classes:
            self._classes[name] = self._filled(self._classes[name])
        return found, self._classes

    def _place_for(self, type_: Any) -> Schema:
        """A mark in the place of a type that msgspec does not know; filled in at the end."""
        reading = reading_of(type_)
        if reading is None:
            return {"description": f"A `{name_of(type_)}`, which has no JSON form."}
        # Each handler has a stand-in of its own for a class; one of them speaks for all.
        key = reading.annotation if isinstance(reading, RecordReading) else id(reading)
        if key not in self._records:
            self._records[key] = len(self._readings)
            self._readings.append(reading)
        return {_PLACE: self._records[key]}

    def _filled(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self._filled(one) for one in schema]
        if not isinstance(schema, dict):
            return schema
        if _PLACE in schema:
            rest = {key: self._filled(one) for key, one in schema.items() if key != _PLACE}
            return {**self._of_reading(schema[_PLACE]), **rest}
        return {key: self._filled(one) for key, one in schema.items()}

    def _of_reading(self, index: int) -> Schema:
        reading = self._readings[index]
        start = self._starts[index]
        parts = [self._filled(one) for one in self._parts[start : start + len(reading.parts)]]
        if isinstance(reading, UnionReading):
            return {"anyOf": parts}
        if isinstance(reading, ChoiceReading):
            return {"enum": [json.loads(value) for value in reading.values]}
        if isinstance(reading, RefReading):
            return _of_ref(reading.cls)
        if isinstance(reading, PydanticReading):
            return self._of_model(reading.cls)
        if parts:
            return dict(parts[0])
        return {"description": "A value that has no JSON form."}

    def _of_model(self, cls: Any) -> Schema:
        """A pydantic model's own schema, its classes among ours."""
        schema, below = _model_schema(cls, self._ref_template)
        taken = {name for name, one in below.items() if self._classes.get(name, one) != one}
        if taken:
            prefix = cls.__module__.replace(".", "_")
            schema, below = _model_schema(cls, self._ref_template.format(name=prefix + "_{name}"))
            below = {f"{prefix}_{name}": one for name, one in below.items()}
        self._classes.update(below)
        return schema


def _of_ref(cls: type) -> Schema:
    name = getattr(cls, "__perdure_name__", cls.__name__)
    what = "an object" if cls is Ref or name == "Object" else f"a `{name}`"
    return {"type": "string", "description": f"The address of {what}: class, slash, key."}


def _model_schema(cls: Any, ref_template: str) -> tuple[Schema, dict[str, Schema]]:
    template = ref_template.replace("{name}", "{model}")
    if hasattr(cls, "model_json_schema"):
        schema = cls.model_json_schema(ref_template=template)
    else:
        # A pydantic dataclass: there is one, so pydantic is imported already.
        from pydantic import TypeAdapter

        schema = TypeAdapter(cls).json_schema(ref_template=template)
    below = schema.pop("$defs", {})
    if "properties" not in schema:
        return schema, below
    # A generic model is called Box[int], which cannot stand in a reference.
    name = re.sub(r"[^a-zA-Z0-9._-]", "_", cls.__name__)
    return {"$ref": ref_template.format(name=name)}, {**below, name: schema}
