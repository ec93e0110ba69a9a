"""YAML 1.2 core schema, in which values are what they look like: 0100 is one hundred, `1:30` and `no` are text. Duplicate keys are
errors.
"""

import re
from itertools import chain
from typing import Any

import yaml

from lynx_batch.errors import ConfigError

PLAIN_SCALARS = {
    "null": (r"(~|null|Null|NULL|)", ["~", "n", "N", ""]),
    "bool": (r"(true|True|TRUE|false|False|FALSE)", list("tTfF")),
    "int": (r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    "float": (
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
}
"""Pattern and first characters of unquoted scalars, by type; every other scalar is text. Source: YAML 1.2.2, 10.3.2."""

TAG = "tag:yaml.org,2002:"
KINDS = {
    "null": "null",
    "bool": "true or false",
    "int": "a whole number of at most 64 bits",
    "float": "a number",
    "str": "text in Unicode, without NUL",
    "seq": "a list",
    "map": "a mapping",
}
"""The types that a value may have, and their names in messages."""

INT_LIMIT = 2**63

TOO_DEEP = "must not be nested so deeply"

MAX_FLOW_DEPTH = 50
"""Nested brackets; PyYAML takes a second for a thousand."""

MAX_SIZE = 2**20
"""Values plus characters in a document, with every alias expanded."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.deep_construct = True  # makes a value that contains itself an error

    def fetch_flow_collection_start(self, token_class: type[yaml.Token]) -> None:
        if self.flow_level == MAX_FLOW_DEPTH:
            raise yaml.scanner.ScannerError(None, None, TOO_DEEP, self.get_mark())
        super().fetch_flow_collection_start(token_class)

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _check_size(node, {})
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.removeprefix(TAG)
        if kind not in KINDS:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"tag {node.tag!r}: must be one of {', '.join(f'!!{name}' for name in KINDS)}",
                node.start_mark,
            )
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise yaml.constructor.ConstructorError(None, None, f"must be {KINDS[kind]}", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r}: must not appear twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as another type."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it


def _check_size(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """The expanded size of `node`, checked before construction: a few nested aliases can expand to more than fits in memory."""
    if node not in sizes:
        sizes[node] = 0  # for a node that contains itself; construction rejects it
        if isinstance(node, yaml.ScalarNode):
            inner = [len(node.value)]
        else:
            children = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
            inner = [_check_size(child, sizes) for child in children]
        sizes[node] = 1 + sum(inner)
        if sizes[node] > MAX_SIZE:
            rule = f"must have at most {MAX_SIZE:,} values and characters, counting what its aliases stand for"
            raise yaml.constructor.ConstructorError(None, None, rule, node.start_mark)
    return sizes[node]


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if not -INT_LIMIT <= number < INT_LIMIT:
        raise ValueError(node.tag)
    return number


def _construct_str(loader: _Loader, node: yaml.ScalarNode) -> str:
    text: str = loader.construct_scalar(node)
    text.encode()  # raises ValueError for an escaped lone surrogate
    if "\0" in text:
        raise ValueError(node.tag)
    return text


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node)
    return float(text.replace(".", "") if text[-1:].isalpha() else text)


for _name, (_pattern, _first) in PLAIN_SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^{_pattern}$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:str", _construct_str)


def read_yaml(text: str, *, source: str) -> Any:
    """The value of a YAML text. Raises ConfigError, which names `source`, if it is not YAML, too large, too deep or has a duplicate key."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(f"{source}: {TOO_DEEP}") from None
    except (yaml.YAMLError, ValueError) as error:
        if "-----BEGIN" in text:  # the library's message would show a line of it
            raise ConfigError(f"{source}: not YAML; it holds a PEM text: name the file that holds it") from None
        raise ConfigError(f"{source}: {error}") from error


def write_yaml(value: object) -> str:
    """`value` as YAML that `read_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
