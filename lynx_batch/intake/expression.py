"""`--where EXPR`: selects rows of a table, such as a manifest, by the values of their cells.

The language is a small part of Python: columns (and `row`), tags (`tags.city` or `tags['any key']`), literals and lists of literals,
`== != < <= > >=`, `in`, `not in`, `is None`, `is not None`, `and`, `or`, `not` and parentheses. A comparison with a null cell, or with
a tag that the row lacks, is neither true nor false, so only `is None` finds it.
"""

import ast
import keyword
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch.columns import TAGS, TEXT, TEXTS
from lynx_batch.errors import ConfigError
from lynx_batch.intake.cells import read_cell
from lynx_batch.intake.schema import MANIFEST_SCHEMA, ROW
from lynx_batch.spelling import nearest

MAX_LENGTH = 10_000

TAG = re.compile(r"\btags\s*\.\s*(\w+)")

Columns = Mapping[str, pa.DataType]

COLUMNS: Columns = {ROW: pa.int64()} | {field.name: field.type for field in MANIFEST_SCHEMA if field.type != TEXTS}

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def filter_rows(table: pa.Table, where: str, columns: Columns = COLUMNS) -> pa.Table:
    """The rows of `table` for which `where` is true, in their order. It may name any of `columns`, even one that `table` lacks.

    Raises:
        ConfigError: If `where` is not valid in this language; the message names the part that is not.
    """
    missing = {name: pa.nulls(table.num_rows, kind) for name, kind in columns.items() if name not in table.column_names}
    try:
        expression = _condition(ast.parse(_checked(where), mode="eval").body, columns)
        complete = pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **missing})
        kept = complete.filter(expression)
    except SyntaxError as error:
        raise ConfigError(f"--where {where!r}: {_explain_syntax(where, error)}") from None
    except (RecursionError, MemoryError):  # Python's parser raises them for deep nesting
        raise ConfigError(f"--where {where[:60]!r}...: must not be nested so deeply") from None
    except (ValueError, pa.ArrowException) as error:
        raise ConfigError(f"--where {where!r}: {error}") from None
    return kept.select(table.column_names).sort_by(ROW)


def choose_rows(table: pa.Table, where: str, columns: Columns = COLUMNS) -> pa.Table:
    """As `filter_rows`. Raises ConfigError also if no row matches, which is more often a mistake than intended."""
    chosen = filter_rows(table, where, columns)
    if not chosen.num_rows:
        raise ConfigError(f"--where {where!r}: must match a row, but matches none of {table.num_rows}")
    return chosen


def _explain_syntax(where: str, error: SyntaxError) -> str:
    """The rule that is broken. Python's parser does not take `tags.class`, whose key is a reserved word."""
    if word := next(filter(keyword.iskeyword, TAG.findall(where)), None):
        return f"tags.{word}: must be written as tags[{word!r}], because {word!r} is a reserved word"
    return f"{error.msg}; an example is: seed == 7 and width in [480, 832]"


def _checked(where: str) -> str:
    if len(where) > MAX_LENGTH:
        raise ValueError(f"must be at most {MAX_LENGTH} characters")
    return where.strip()


def _condition(node: ast.expr, columns: Columns) -> pc.Expression:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return _joined(operator.and_, values, columns)
        case ast.BoolOp(values=values):
            return _joined(operator.or_, values, columns)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand, columns)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _comparison(left, op, right, columns)
        case ast.Compare():
            raise ValueError(f"{ast.unparse(node)!r}: compare two things at a time, joined by `and`")
    raise ValueError(f"{ast.unparse(node)!r}: must be a comparison, such as seed == 7")


def _joined(join: Callable[[Any, Any], Any], nodes: list[ast.expr], columns: Columns) -> pc.Expression:
    first, *others = (_condition(node, columns) for node in nodes)
    for other in others:
        first = join(first, other)
    return first


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr, columns: Columns) -> pc.Expression:
    column, kind = _column(left, columns)
    match op, right:
        case ast.Is(), ast.Constant(value=None):
            return column.is_null()
        case ast.IsNot(), ast.Constant(value=None):
            return column.is_valid()
        case ((ast.In() | ast.NotIn()), (ast.List(elts=items) | ast.Tuple(elts=items))):
            found = column.isin(pa.array([_literal(item, kind) for item in items], kind))
            return pc.if_else(
                column.is_valid(), found if isinstance(op, ast.In) else ~found, pa.scalar(None, pa.bool_())
            )
    if type(op) not in COMPARISONS:
        raise ValueError("`in` takes a list such as [1, 2], and `is` takes None")
    if isinstance(right, (ast.Name, ast.Attribute, ast.Subscript)):
        return COMPARISONS[type(op)](column, _column(right, columns)[0])
    return COMPARISONS[type(op)](column, pa.scalar(_literal(right, kind), kind))


def _column(node: ast.expr, columns: Columns) -> tuple[pc.Expression, pa.DataType]:
    name, key = _name_and_key(node)
    if name not in columns:
        raise ValueError(f"column {name!r}: unknown; the nearest known one is {nearest(name, columns)!r}")
    kind = columns[name]
    if key is None and kind == TAGS:
        raise ValueError(f"{name!r}: must name one tag, such as {name}.city or {name}['any key']")
    if key is None:
        return pc.field(name), kind
    if kind != TAGS:
        raise ValueError(f"{ast.unparse(node)!r}: only tags have keys")
    return pc.map_lookup(pc.field(name), pa.scalar(key, TEXT), "first"), TEXT


def _name_and_key(node: ast.expr) -> tuple[str, str | None]:
    match node:
        case ast.Name(id=name):
            return name, None
        case ast.Attribute(value=ast.Name(id=name), attr=key):
            return name, key
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))):
            return name, key
    raise ValueError(f"{ast.unparse(node)!r}: must be a column, on the left of its comparison")


def _literal(node: ast.expr, kind: pa.DataType) -> object:
    shown = ast.unparse(node)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError):  # TypeError for a set of lists
        raise ValueError(f"{shown!r}: must be a literal, such as 7 or 'text'") from None
    if value is None:
        raise ValueError("a comparison with None is never true: write `is None` or `is not None`")
    try:
        return read_cell(value, kind)
    except ValueError as rule:
        raise ValueError(f"{shown!r}: {rule}, because its column holds such values") from None
