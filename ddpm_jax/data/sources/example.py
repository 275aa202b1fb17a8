"""tf.train.Example messages, the records of TensorFlow Datasets, read without TensorFlow.

A record maps names to lists of bytes, integers or floats; nested features have names such as "attributes/Smiling".
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

Features = dict[str, list[Any]]
FIELD = descriptor_pb2.FieldDescriptorProto
LISTS = {"bytes_list": FIELD.TYPE_BYTES, "float_list": FIELD.TYPE_FLOAT, "int64_list": FIELD.TYPE_INT64}


def read_example(record: bytes) -> Features:
    """The features of a serialized Example; raises ValueError for anything else."""
    try:
        features = Example.FromString(record).features.feature
    except DecodeError as error:
        raise ValueError(f"a record is not a tf.train.Example: {error}") from error
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    return {name: list(getattr(features[name], kind).value) if kind else [] for name, kind in kinds.items()}


def _example_class() -> Any:
    """The message class that tensorflow/core/example/example.proto and feature.proto define."""
    package = "ddpm_jax"
    file = descriptor_pb2.FileDescriptorProto(name="ddpm_jax/example.proto", package=package, syntax="proto3")

    def add_field(message: Any, name: str, number: int, kind: Any, *, repeated: bool = False, of: str = "") -> Any:
        label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
        named = {"type_name": f".{package}.{of}"} if of else {}
        return message.field.add(name=name, number=number, type=kind, label=label, **named)

    for name, kind in LISTS.items():
        add_field(file.message_type.add(name=name), "value", 1, kind, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(LISTS, start=1):
        add_field(feature, name, number, FIELD.TYPE_MESSAGE, of=name).oneof_index = 0
    features = file.message_type.add(name="Features")
    add_field(features, "feature", 1, FIELD.TYPE_MESSAGE, repeated=True, of="Features.FeatureEntry")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add_field(entry, "key", 1, FIELD.TYPE_STRING)
    add_field(entry, "value", 2, FIELD.TYPE_MESSAGE, of="Feature")
    add_field(file.message_type.add(name="Example"), "features", 1, FIELD.TYPE_MESSAGE, of="Features")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Example"))


Example: Any = _example_class()
