"""YAML, overrides and refusals."""

from pathlib import Path

import pytest
import yaml
from pydantic import Field, field_validator

from intarsia.config import Config, build_config, config_differences, dump_config, load_config
from intarsia.errors import UsageError


class Inner(Config):
    rate: float = 0.1
    names: tuple[str, ...] = ("a",)

    @field_validator("rate")
    @classmethod
    def _positive(cls, rate: float) -> float:
        if rate <= 0:
            raise ValueError("must be above 0")
        return rate


class Outer(Config):
    steps: int = Field(default=10, ge=1)
    inner: Inner = Inner()
    note: str | None = None


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_holds_deviations_and_the_command_line_goes_last(tmp_path: Path) -> None:
    path = write(tmp_path, "c.yaml", "inner:\n  rate: 0.5\n")
    assert load_config(Outer, path) == Outer(inner=Inner(rate=0.5))
    assert load_config(Outer, path, ["inner.rate=1e-5", "steps=3", "inner.names=[x, y]"]) == Outer(
        steps=3, inner=Inner(rate=1e-5, names=("x", "y"))
    )
    assert load_config(Outer, path, ["note=null"]).note is None


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(Outer, write(tmp_path, "c.yaml", "# nothing\n")) == Outer()


def test_extends_is_relative_to_the_file_and_overlaid_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "base/b.yaml", "steps: 7\ninner:\n  rate: 0.5\n  names: [q]\n")
    path = write(tmp_path, "train/c.yaml", "extends: ../base/b.yaml\ninner:\n  rate: 0.25\n")
    assert load_config(Outer, path) == Outer(steps=7, inner=Inner(rate=0.25, names=("q",)))


def test_the_resolved_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = Outer(steps=2, inner=Inner(rate=3, names=("x", "y")), note="n")
    (tmp_path / "out.yaml").write_text(dump_config(config))
    assert load_config(Outer, tmp_path / "out.yaml") == config
    assert yaml.safe_load(dump_config(config))["inner"]["names"] == ["x", "y"]


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().steps = 3


REFUSED = [
    ("stepz: 1", [], "unknown key 'stepz'; did you mean 'steps'? valid here: steps, inner, note"),
    ("", ["inner.rat=1"], "unknown key 'inner.rat'; did you mean 'rate'? valid here: rate, names"),
    ("steps: 0", [], "steps=0: Input should be greater than or equal to 1"),
    ("", ["inner.rate=-1"], "inner.rate=-1: must be above 0"),
    ("", ["steps"], "override 'steps' is not of the form a.b=c"),
    (
        "",
        ["steps.more=1", "steps.more.most=2"],
        "override 'steps.more.most=2': more is a value and has no keys",
    ),
    ("", ["note=[1"], "override 'note=[1': the value is not valid YAML"),
    ("- 1", [], "must contain keys and values, not a list"),
    ("a: [", [], "is not valid YAML"),
    ("extends: none.yaml", [], "none.yaml does not exist"),
]


@pytest.mark.parametrize(("text", "overrides", "sentence"), REFUSED, ids=lambda v: str(v)[:25])
def test_mistakes_are_told_in_words(tmp_path: Path, text: str, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_config(Outer, write(tmp_path, "c.yaml", text), overrides)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UsageError) as refused:
        build_config(Outer, {"steps": "many", "inner": {"x": 1}}, where="here")
    assert str(refused.value).startswith("here: ")
    assert "steps='many'" in str(refused.value)
    assert "'inner.x'" in str(refused.value)


def test_a_file_that_is_no_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config file no/such\.yaml does not exist"):
        load_config(Outer, "no/such.yaml")
    with pytest.raises(UsageError, match="is a folder; give a YAML file"):
        load_config(Outer, tmp_path)
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UsageError, match=r"picture\.yaml is not valid YAML"):
        load_config(Outer, tmp_path / "picture.yaml")


def test_differences_name_the_key_and_both_values() -> None:
    old = {"a": 1, "b": {"c": 2, "d": [1]}, "gone": None}
    new = {"a": 1, "b": {"c": 3, "d": [1]}, "new": "x"}
    assert config_differences(old, new) == ["b.c: 2 -> 3", "gone: None -> absent", "new: absent -> 'x'"]
    assert config_differences(old, old) == []
