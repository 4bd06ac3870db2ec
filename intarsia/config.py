"""YAML files and dotted overrides become a frozen, typed config; all errors are reported together."""

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from intarsia.errors import UsageError

# A path in a config; ~ is the home folder, because shells do not expand it after `key=`.
HomePath = Annotated[Path, AfterValidator(Path.expanduser)]


def one_of(table: Mapping[str, object]) -> AfterValidator:
    """The check of a field that names a row of a table, which may get rows later."""

    def check(name: str, field: ValidationInfo) -> str:
        if name not in table:
            raise ValueError(f"{field.field_name}={name!r} is not one of {', '.join(table)}")
        return name

    return AfterValidator(check)


class Config(BaseModel):
    """Base class of all configs: frozen; unknown keys, infinite numbers and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def load_config(schema: type[C], path: Path | str, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file of deviations from the defaults, apply `a.b=c` overrides, and check everything.

    The file named by a top-level `extends: other.yaml` (relative to this file) is read first, and this file
    overrides its values.

    Args:
        schema: config class.
        path: YAML file.
        overrides: texts `dotted.key=value`; the value is read as YAML, so `1e-5`, `true`, `[1, 2]` and `null`
            work.

    Raises:
        UsageError: for a missing file, bad YAML, an unknown key or a bad value; all errors in one message.
    """
    content, alone = (_read_yaml(Path(path)) for _ in range(2))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UsageError(f"override {override!r} is not of the form a.b=c")
        _set_dotted(content, key.split("."), _parse_value(override, value), override)
    try:
        return build_config(schema, content, where=str(path))
    except UsageError:
        if overrides and _is_right(schema, alone):
            build_config(schema, content, where="command line")
        raise


def build_config(schema: type[C], content: dict[str, Any], where: str) -> C:
    """Check a tree of plain values against `schema`; `where` is its origin for the error message.

    Raises:
        UsageError: for unknown keys and bad values; the message lists all of them, and the valid keys.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        lines = [_explain(schema, problem) for problem in error.errors()]
        raise UsageError(f"{where}: " + "; ".join(lines)) from None


def _is_right(schema: type[Config], content: dict[str, Any]) -> bool:
    try:
        schema.model_validate(content)
    except (ValidationError, UsageError):
        return False
    return True


def dump_config(config: Config) -> str:
    """The whole resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def complete(schema: type[Config], content: dict[str, Any]) -> dict[str, Any]:
    """A config dumped by an earlier version, with newer options set to their defaults.

    A config that this version refuses is returned unchanged.
    """
    try:
        return schema.model_validate(content).model_dump(mode="json")
    except ValidationError:
        return content


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Differences between two config trees, as lines `a.b: 1 -> 2`, sorted by key."""
    a, b = flatten(old), flatten(new)
    missing = object()
    return [
        f"{key}: {'absent' if key not in a else repr(a[key])} -> {'absent' if key not in b else repr(b[key])}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, missing) != b.get(key, missing)
    ]


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        what = "is a folder; give a YAML file" if path.is_dir() else "does not exist"
        raise UsageError(f"config file {path} {what}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UsageError(f"{path} must contain keys and values, not a {type(content).__name__}")
    base = content.pop("extends", None)
    return content if base is None else _overlay(_read_yaml(path.parent / str(base)), content)


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = _overlay(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _parse_value(override: str, value: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"override {override!r}: the value is not valid YAML") from None
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-5, which lacks a dot, as text
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _set_dotted(tree: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UsageError(f"override {override!r}: {key} is a value and has no keys")
    tree[keys[-1]] = value


def _explain(schema: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path) or "config"
    if problem["type"] == "extra_forbidden":
        valid = _keys_at(schema, path[:-1])
        close = difflib.get_close_matches(path[-1], valid, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {name!r}; {hint}valid here: {', '.join(valid)}"
    if problem["type"] == "missing":
        return f"{name} must be given"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict) and problem["type"] == "value_error":
        return message if not path else f"{name}: {message}"
    return f"{name}={problem['input']!r}: {message}"


def _keys_at(schema: type[BaseModel], path: list[str]) -> list[str]:
    for key in path:
        field = schema.model_fields.get(key)
        inner = next(_models_in(field.annotation), None) if field else None
        if inner is None:
            return []
        schema = inner
    return list(schema.model_fields)


def _models_in(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for choice in typing.get_args(annotation):
            yield from _models_in(choice)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
