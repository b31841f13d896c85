"""A config is what its file and overrides say, or one line that names every fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Ge
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saesteer.config import as_config, build_config, dump_config, load_config, read_yaml
from saesteer.config.sae import CLOSED
from saesteer.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    __pydantic_config__ = CLOSED

    path: str | list[str]
    passes: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True)
class Outer:
    __pydantic_config__ = CLOSED

    name: str
    inner: Inner
    rate: float = 0.5
    count: int = 3
    kind: Literal["one", "two"] = "one"
    label: str | None = None
    other: Inner | None = None
    numbers: list[float] = field(default_factory=list)


@pytest.fixture
def write(tmp_path):
    def save(text: str):
        path = tmp_path / "a.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return save


GOOD = "name: größer\ninner:\n  path: [a, b]\n"


def test_a_file_becomes_a_value_with_defaults(write):
    config = load_config(Outer, write(GOOD))
    assert config == Outer(name="größer", inner=Inner(path=["a", "b"]))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("rate=5e-4", "rate", 5e-4),
        ("rate=1", "rate", 1.0),
        ("count=2e3", "count", 2000),
        ("kind=two", "kind", "two"),
        ("label=on time", "label", "on time"),
        ("label='5e-4'", "label", "5e-4"),
        ("label=null", "label", None),
        ("label=a=b", "label", "a=b"),
        ("numbers=[1, 2.5, 5e-4]", "numbers", [1.0, 2.5, 5e-4]),
        ("inner.path=c", "inner", Inner(path="c")),
        ("inner.passes=4", "inner", Inner(path=["a", "b"], passes=4)),
        ("other.path=c", "other", Inner(path="c")),
    ],
)
def test_overrides(write, override, key, value):
    config = load_config(Outer, write(GOOD), [override])
    assert getattr(config, key) == value
    assert config.name == "größer"


def test_the_last_override_counts(write):
    assert load_config(Outer, write(GOOD), ["count=4", "count=5"]).count == 5


@pytest.mark.parametrize("number", ["5e-4", "5E-4", "+5e-4", "0.05e-2", ".5e-3", "5.e-4", "0.0005"])
def test_numbers_are_numbers_however_they_are_written(write, number):
    assert read_yaml(write(f"a: {number}")) == {"a": 5e-4}


@pytest.mark.parametrize("text", ["'5e-4'", "5e", "e4", "1e4x", "a5e-4"])
def test_texts_stay_texts(write, text):
    assert isinstance(read_yaml(write(f"a: {text}"))["a"], str)


def fault(kind, path, overrides=()) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(kind, path, overrides)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_unknown_key_is_named_with_its_neighbour(write):
    text = fault(Outer, write(GOOD + "conut: 5\n"))
    assert "a.yaml: unknown key 'conut' (did you mean 'count'?)" in text


def test_an_unknown_key_far_from_all_is_named_with_them(write):
    text = fault(Outer, write(GOOD + "zzz: 5\n"))
    assert "unknown key 'zzz' (known: name, inner, rate, count, kind, label, other" in text


@pytest.mark.parametrize("at", ["inner", "other"])
def test_an_unknown_key_deeper_down_is_named_by_its_path(write, at):
    text = fault(Outer, write(GOOD), [f"{at}.path=c", f"{at}.pases=2"])
    assert f"unknown key '{at}.pases' (did you mean 'passes'?)" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate=fast", "key 'rate': Input should be a valid number"),
        ("count=2.5", "key 'count': Input should be a valid integer"),
        ("kind=three", "key 'kind': Input should be 'one' or 'two', got 'three'"),
        ("inner.passes=0", "key 'inner.passes': Input should be greater than or equal to 1, got 0"),
        ("inner=5", "key 'inner': Input should be a dictionary"),
        ("name=5", "key 'name': Input should be a valid string, got 5"),
        ("inner.path=5", "key 'inner.path': Input should be a valid string, got 5"),
        ("numbers=[1, x]", "key 'numbers.1': Input should be a valid number"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(write, override, message):
    assert message in fault(Outer, write(GOOD), [override])


def test_all_faults_come_at_once(write):
    text = fault(Outer, write("rate: x\ncolour: red\ninner:\n  passes: -1\n"))
    for part in (
        "key 'name' is missing",
        "key 'inner.path' is missing",
        "key 'rate': ",
        "unknown key 'colour'",
        "key 'inner.passes': ",
    ):
        assert part in text
    assert text.count("; ") == 4


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\ta: 1", "a: !!python/object:os.x {}"])
def test_broken_yaml(write, text):
    assert "a.yaml: not YAML: " in fault(Outer, write(text))


@pytest.mark.parametrize(("text", "kind"), [("- 1", "list"), ("5", "int"), ("", "NoneType")])
def test_yaml_that_holds_no_keys(write, text, kind):
    assert f"expected keys and values, got {kind}" in fault(Outer, write(text))


def test_files_that_cant_be_read(tmp_path):
    assert "No such file or directory; give the path" in fault(Outer, tmp_path / "missing.yaml")
    assert "Is a directory" in fault(Outer, tmp_path)
    (tmp_path / "a.yaml").write_bytes("name: größer".encode("latin-1"))
    assert "not YAML: " in fault(Outer, tmp_path / "a.yaml")


@pytest.mark.parametrize("override", ["count", "=5", ".count=5", "inner.=5", "inner..path=5"])
def test_overrides_without_a_key(write, override):
    assert "expected key.path=value" in fault(Outer, write(GOOD), [override])


def test_overrides_that_go_below_a_value(write):
    assert "'name' holds no keys" in fault(Outer, write(GOOD), ["name.first=5"])


def test_overrides_that_are_no_yaml(write):
    assert "the value is not YAML" in fault(Outer, write(GOOD), ["name=[1, 2"])


def test_a_configs_own_check_names_the_file():
    @dataclass(frozen=True)
    class Strict:
        a: int

        def __post_init__(self):
            raise ConfigError("a and b disagree.")

    with pytest.raises(ConfigError, match=r"^file: a and b disagree\.$"):
        build_config(Strict, {"a": 1}, "file")


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
TRICKY = st.sampled_from(["5e-4", "null", "true", "1.0", "- a", "a: b", "#", "", " a ", "'", "~"])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INNERS = st.builds(Inner, TEXTS | TRICKY | st.lists(TEXTS | TRICKY), st.integers(1))
OUTERS = st.builds(
    Outer,
    name=TEXTS | TRICKY,
    inner=INNERS,
    rate=FLOATS,
    count=st.integers(),
    kind=st.sampled_from(["one", "two"]),
    label=st.none() | TEXTS | TRICKY,
    other=st.none() | INNERS,
    numbers=st.lists(FLOATS, max_size=4),
)


@given(OUTERS)
@example(Outer(name="0E0", inner=Inner("1.e5"), label="-.5e+3"))
@settings(max_examples=30, deadline=None)
def test_what_is_dumped_reads_back_the_same(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(Outer, path) == config


def test_a_config_may_be_a_value_its_keys_or_a_path(write):
    config = write(GOOD)
    read = load_config(Outer, config)
    ways = (read, read_yaml(config), config, str(config))
    assert [as_config(Outer, way) for way in ways] == [read] * len(ways)
    with pytest.raises(ConfigError, match="the config is a list, expected a Outer"):
        as_config(Outer, ["name"])
    with pytest.raises(ConfigError, match="Outer: .*nmae"):
        as_config(Outer, {"nmae": "x"})
