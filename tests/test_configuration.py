from dataclasses import dataclass

import pytest

from l2sae_jax.configuration import from_dict, to_dict


@dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class Outer:
    inner: Inner
    other: Inner | None = None
    pairs: tuple[tuple[int, int], ...] | None = None


def test_there_and_back():
    value = Outer(Inner((1, 2)), None, ((0, 1), (1, 2)))
    as_json = to_dict(value)
    assert as_json == {
        "inner": {"widths": (1, 2), "scale": 1.0},
        "pairs": ((0, 1), (1, 2)),
    }
    lists = {"inner": {"widths": [1, 2]}, "other": None, "pairs": [[0, 1], [1, 2]]}
    assert from_dict(Outer, lists) == from_dict(Outer, as_json) == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"width": (1,)}}, "config.inner: unknown field 'width', expected widths, scale"),
        ({"inner": {}}, "config.inner: field 'widths' is missing"),
        ({}, "config: field 'inner' is missing"),
        ({"inner": 3}, "config.inner: expected fields of Inner, found 3"),
    ],
)
def test_errors_name_the_field(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Outer, values)
