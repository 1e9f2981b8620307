"""Filters against a naive evaluation in Python, on metadata of all kinds under one name."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from index_model import fits

from simcse import ConfigError, SearchError
from simcse.search.filters import conditions, parse_conditions
from simcse.search.local.store import Store

TEXTS = st.sampled_from(
    ["", "a", "a\0", "a\0b", "b", "1", "1.0", "true", "é", "日", "\U0001f469", 'q"\\\n\x01', "null"]
)
INTEGERS = st.sampled_from([0, 1, -1, 2, 1995, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 + 1])
FLOATS = st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0**53, 2.0**63, -(2.0**63), 1e300]) | st.floats(
    allow_nan=False, allow_infinity=False
)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(TEXTS, SCALARS, max_size=1)
SIGNS = st.sampled_from(["<", "<=", ">", ">=", "!="])
WANTED = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(SIGNS, SCALARS, max_size=2)
FIELDS = st.sampled_from(["x", 'y "z"\'.'])
ROWS = st.lists(st.dictionaries(FIELDS, VALUES), max_size=12)


@settings(deadline=None, max_examples=300)
@given(ROWS, st.dictionaries(FIELDS, WANTED, min_size=1))
@example([{"x": "1995"}, {"x": 1995}], {"x": {">=": 2000}})
@example([{"x": True}, {"x": 1}, {"x": 1.0}], {"x": 1})
@example([{"x": "a\0b"}, {"x": "a"}], {"x": "a"})
@example([{"x": 10**400}, {"x": 2**63}], {"x": {">": 2**63 - 1}})
def test_sql_means_what_a_naive_evaluation_does(rows, where):
    store = Store()
    store.insert(0, [(i, "", metadata) for i, metadata in enumerate([*rows, {"x": None, 'y "z"\'.': None}])])
    expected = [i for i, metadata in enumerate([*rows, {}]) if fits(metadata, where)]
    assert sorted(store.matching(where).tolist()) == expected
    store.close()


# one of each kind under one name; a filter may ask for any of them
MIXED = [
    None, True, False, 0, 1, 1.0, -1, 1.5, 1995, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63, -(2**63) - 1, 1e300,
    "", "1", "1995", "true", "a", "a\0b", "a\x01", "a\nb", 'q"\\', "b", "\u00e9", "\u65e5", [1], {"x": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def mixed(storage, module_encoder):
    metadata = [*({"x": value} for value in MIXED), {"y": 1}]
    return metadata, storage.build([f"t{i}" for i in range(len(metadata))], module_encoder.encode, metadata=metadata)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from("xy"), WANTED, min_size=1))
def test_every_storage_means_the_same_across_kinds_of_values(mixed, where):
    metadata, index = mixed
    hits = index.search_vectors(np.ones((1, 32)), top_k=len(metadata), where=where)[0]
    assert sorted(hit.id for hit in hits) == [i for i, found in enumerate(metadata) if fits(found, where)]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("lang=en", "where: found 'lang=en', expected a mapping such as {'lang': 'en'}"),
        (["lang"], "where: found ['lang'], expected a mapping"),
        ({1: 2}, "filter on unknown field 1; fields are lang, year"),
        ({"land": 2}, "unknown field 'land'; did you mean 'lang'?"),
        ({"year": math.nan}, "filter on 'year': found nan, expected text, number"),
        ({"year": {"<": math.inf}}, "filter on 'year': found inf"),
        ({"year": [1, np.float64("nan")]}, "filter on 'year': found nan"),
        ({"year": 10**400}, "filter on 'year': found inf"),
        ({"lang": "half \ud800"}, "filter on 'lang': found 'half \\ud800'"),
        ({"year": {"=>": 2000}}, "filter on 'year': unknown operator '=>', expected one of < <= > >= !="),
        ({"lang": b"en"}, "filter on 'lang': found b'en'"),
        ({"lang": [["en"]]}, "filter on 'lang': found ['en']"),
        ({"year": list(range(10_001))}, "found 1 conditions with 10001 values, expected at most 500 and 10000"),
    ],
)
def test_what_is_no_filter_is_told_in_one_line(where, message):
    with pytest.raises(SearchError) as caught:
        conditions(where, ["lang", "year"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numpys_numbers_are_numbers():
    assert conditions({"year": [np.int64(3), np.float32(0.5), np.bool_(True)]}, ["year"]) == [
        ("year", "=", [3, 0.5, True])
    ]


def test_ten_thousand_values_are_one_pass():
    store = Store()
    store.insert(0, [(i, "", {"n": i, "t": str(i)}) for i in range(300)])
    assert len(store.matching({"n": list(range(100, 5100)), "t": [str(i) for i in range(0, 4999)]})) == 200


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A store of 20,000 rows on the disk, more than are looked at in one go."""
    store = Store(tmp_path_factory.mktemp("many") / "store.sqlite", create=True)
    with store.transaction():
        store.insert(0, [(i, "", {"year": i % 3000, "name": f"name {i % 3000}"}) for i in range(20_000)])
    store.remove(range(100, 200))
    yield store
    store.close()


def looks(store, where):
    """How often a filter asks whether to stop, that is thousands of steps of SQLite."""
    asked = []
    found = store.matching(where, lambda: bool(asked.append(1)))
    return len(asked), found


@pytest.mark.parametrize("field", ["year", "name"])
def test_many_values_take_one_pass(many, field):
    values = [i if field == "year" else f"name {i}" for i in range(0, 1980, 2)]
    few, _ = looks(many, {field: values[:1]})
    steps, found = looks(many, {field: values})
    assert found.tolist() == [i for i in range(20_000) if i % 3000 in range(0, 1980, 2) and i not in range(100, 200)]
    assert few > 10
    assert steps < 3 * few


def test_a_filter_can_be_stopped(many):
    asked = []
    with pytest.raises(TimeoutError):
        many.matching({"year": 7}, lambda: bool(asked.append(1)) or len(asked) == 3)
    assert len(asked) == 3
    assert len(many.matching({"year": 7})) == 7


def test_other_reads_do_not_wait_for_a_filter(many):
    """While a filter is at work, another thread reads texts."""
    read = []

    def stop():
        if not read:
            thread = threading.Thread(target=lambda: read.append(many.fetch([5])), daemon=True)
            thread.start()
            thread.join(10)
            return not read
        return False

    assert len(many.matching({"year": 7}, stop)) == 7
    assert read[0][5][0] == 5


def test_conditions_of_the_command_line():
    """Values are JSON where they can be; conditions by signs on one field hold together, a list stands alone."""
    where = parse_conditions(["lang=en|de", "year>=2000", "year<2010.5", 'n!="1"', "x=", "seen=true", "none=null|NaN"])
    assert where == {
        "lang": ["en", "de"], "year": {">=": 2000, "<": 2010.5}, "n": {"!=": "1"}, "x": [""], "seen": [True],
        "none": [None, "NaN"],
    }  # fmt: skip
    for texts in (["lang=en", "lang=de"], ["n=1", "n>0"], ["n>0", "n=1"]):
        with pytest.raises(ConfigError, match=r"where: found two conditions on .*; write several values as .*=A\|B"):
            parse_conditions(texts)
    for text in ("lang", "=en", "", ">=5"):
        with pytest.raises(ConfigError, match=r"where: found .*, expected FIELD=VALUE, FIELD=A"):
            parse_conditions([text])


def test_bounds_of_a_filter():
    """As many conditions and values as are allowed, and no more; integers of 64 bits as they are, others as floats."""
    assert (
        len(conditions({"x": {"!=": 0}} | {f"y{i}": 0 for i in range(499)}, ["x", *(f"y{i}" for i in range(499))]))
        == 500
    )
    [(_, _, values)] = conditions({"x": list(range(10_000))}, ["x"])
    assert len(values) == 10_000
    for value, kept in [(-(2**63), int), (2**63 - 1, int), (2**63, float), (-(2**63) - 1, float)]:
        [(_, _, [found])] = conditions({"x": value}, ["x"])
        assert (type(found), found) == (kept, kept(value))


def test_a_filter_on_an_index_without_metadata():
    with pytest.raises(SearchError, match="fields are none: no row has metadata"):
        conditions({"year": 1}, [])
