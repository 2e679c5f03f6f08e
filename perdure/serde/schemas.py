"""JSON Schemas of what handlers take and give, for documents that describe them.

They say what readers.py reads, since they are made from the same types: msgspec's schemas, with
those of refs, pydantic models and ambiguous unions put in where a stand-in is. All types of a
document are described in one go, so that each class has one name in it.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from perdure.errors import NotSerializable
from perdure.ref import Ref
from perdure.serde.annotations import name_of
from perdure.serde.parameters import Parameter
from perdure.serde.readers import (
    AliasReading,
    ChoiceReading,
    PydanticReading,
    Reading,
    RecordReading,
    RefReading,
    UnionReading,
    reading_of,
)
from perdure.serde.signature import Signature
from perdure.serde.writers import to_json

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
    describer = _Describer(ref_template)
    schemas = describer.describe(types)
    return schemas, describer.classes


def _with_default(parameter: Parameter, schema: Schema) -> Schema:
    if parameter.required or parameter.variadic:
        return schema
    try:
        return {**schema, "default": json.loads(to_json(parameter.default))}
    except NotSerializable:
        return schema


class _Describer:
    """Describes types one after the other, and sees that each class has a name of its own."""

    def __init__(self, ref_template: str) -> None:
        self.classes: dict[str, Schema] = {}
        self._ref_template = ref_template
        self._as_found: dict[str, Schema] = {}
        self._readings: list[Reading] = []
        self._parts: list[list[Schema]] = []
        self._known: dict[Any, int] = {}

    def describe(self, types: Iterable[Any]) -> list[Schema]:
        schemas = [self._described(type_) for type_ in types]
        # What a stand-in is made of may hold further ones, which join the end of the list.
        for reading in self._readings:
            self._parts.append([self._described(part) for part in reading.parts])
        filled = [self._filled(schema) for schema in schemas]
        for name, schema in list(self.classes.items()):
            self.classes[name] = self._filled(schema)
        return filled

    def _described(self, type_: Any) -> Schema:
        [schema], found = msgspec.json.schema_components(
            [type_], schema_hook=self._place_for, ref_template=self._ref_template
        )
        return self._merged(schema, found)

    def _merged(self, schema: Schema, found: dict[str, Schema]) -> Schema:
        """The schema, with the classes it refers to among ours.

        Where another class has the name of one of them already, they all get a number: a class
        that only refers to a renamed one is another class too.
        """
        for number in itertools.count(1):
            suffix = "" if number == 1 else f"_{number}"
            if all(self._as_found.get(name + suffix, one) == one for name, one in found.items()):
                break
        names = {self._ref_template.format(name=name): name + suffix for name in found}
        for name, one in found.items():
            self._as_found[name + suffix] = one
            self.classes.setdefault(name + suffix, self._renamed(one, names))
        renamed: Schema = self._renamed(schema, names)
        return renamed

    def _renamed(self, schema: Any, names: dict[str, str]) -> Any:
        if isinstance(schema, list):
            return [self._renamed(one, names) for one in schema]
        if isinstance(schema, dict):
            return {key: self._renamed(one, names) for key, one in schema.items()}
        if isinstance(schema, str) and schema in names:
            return self._ref_template.format(name=names[schema])
        return schema

    def _place_for(self, type_: Any) -> Schema:
        """A mark in the place of a type that msgspec does not know; filled in at the end."""
        reading = reading_of(type_)
        if reading is None:
            return {"description": f"A `{name_of(type_)}`, which has no JSON form."}
        # Each handler has a stand-in of its own for a class; one of them speaks for all.
        key = reading.annotation if isinstance(reading, RecordReading) else id(reading)
        if key not in self._known:
            self._known[key] = len(self._readings)
            self._readings.append(reading)
        return {_PLACE: self._known[key]}

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
        if isinstance(reading, AliasReading):
            return self._of_alias(reading, index)
        parts = [self._filled(one) for one in self._parts[index]]
        if isinstance(reading, UnionReading):
            return {"anyOf": parts}
        if isinstance(reading, ChoiceReading):
            return {"enum": [json.loads(value) for value in reading.values]}
        if isinstance(reading, RefReading):
            return _of_ref(reading.cls)
        if isinstance(reading, PydanticReading):
            return self._merged(*_model_schema(reading.cls, self._ref_template))
        if parts:
            return dict(parts[0])
        return {"description": "A value that has no JSON form."}

    def _of_alias(self, reading: AliasReading, index: int) -> Schema:
        """A reference to what it stands for, since that contains it."""
        if reading.name not in self.classes:
            self.classes[reading.name] = {}  # in its own description it is only referred to
            self.classes[reading.name] = self._filled(self._parts[index][0])
        return {"$ref": self._ref_template.format(name=reading.name)}


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
