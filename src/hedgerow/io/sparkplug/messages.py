"""The protobuf messages of Sparkplug B, described here rather than by a generated file.

Numbers and names are those of `sparkplug_b.proto` (Sparkplug 3.0.0, section 6.4, package
`org.eclipse.tahu.protobuf`); templates, property sets and metadata are left out: what is not
described, protobuf skips.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from hedgerow.io.extras import needs

with needs("mqtt"):
    from google.protobuf import (  # type: ignore[import-untyped]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )
    from google.protobuf.message import DecodeError as _DecodeError  # type: ignore[import-untyped]

_Field: TypeAlias = tuple[str, int, str]

_PACKAGE: Final = "org.eclipse.tahu.protobuf"
_OPTIONAL: Final = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
_REPEATED: Final = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
_TYPES: Final = {
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
}
_MESSAGES: Final[dict[str, list[_Field]]] = {
    "Payload": [
        ("timestamp", 1, "uint64"),
        ("metrics", 2, "*Payload.Metric"),
        ("seq", 3, "uint64"),
        ("uuid", 4, "string"),
        ("body", 5, "bytes"),
    ],
    "Payload.Metric": [
        ("name", 1, "string"),
        ("alias", 2, "uint64"),
        ("timestamp", 3, "uint64"),
        ("datatype", 4, "uint32"),
        ("is_historical", 5, "bool"),
        ("is_transient", 6, "bool"),
        ("is_null", 7, "bool"),
        ("int_value", 10, "uint32"),
        ("long_value", 11, "uint64"),
        ("float_value", 12, "float"),
        ("double_value", 13, "double"),
        ("boolean_value", 14, "bool"),
        ("string_value", 15, "string"),
        ("bytes_value", 16, "bytes"),
        ("dataset_value", 17, "Payload.DataSet"),
    ],
    "Payload.DataSet": [
        ("num_of_columns", 1, "uint64"),
        ("columns", 2, "*string"),
        ("types", 3, "*uint32"),
        ("rows", 4, "*Payload.DataSet.Row"),
    ],
    "Payload.DataSet.Row": [("elements", 1, "*Payload.DataSet.DataSetValue")],
    "Payload.DataSet.DataSetValue": [
        ("int_value", 1, "uint32"),
        ("long_value", 2, "uint64"),
        ("float_value", 3, "float"),
        ("double_value", 4, "double"),
        ("boolean_value", 5, "bool"),
        ("string_value", 6, "string"),
    ],
}


def _fill(message: Any, fields: list[_Field]) -> None:
    """Describes the fields of one message; those called `…_value` are one of a kind."""
    values = [field for field, _, _ in fields if field.endswith("_value")]
    if values:
        message.oneof_decl.add(name="value")
    for field, number, kind in fields:
        described = message.field.add(name=field, number=number)
        described.label = _REPEATED if kind.startswith("*") else _OPTIONAL
        kind = kind.removeprefix("*")
        if kind in _TYPES:
            described.type = _TYPES[kind]
        else:
            described.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
            described.type_name = f".{_PACKAGE}.{kind}"
        if field in values:
            described.oneof_index = 0


def _payload_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="hedgerow/sparkplug_b.proto", package=_PACKAGE, syntax="proto2"
    )
    made: dict[str, Any] = {}
    for path, fields in _MESSAGES.items():
        outer, _, name = path.rpartition(".")
        within = made[outer].nested_type if outer else file.message_type
        message = made[path] = within.add(name=name)
        _fill(message, fields)
    # A pool of its own: another library in the process may have described the same package.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


PayloadMessage: Final[Any] = _payload_class()
DecodeError: Final[type[Exception]] = _DecodeError
