"""Roles and plans: what is refused, what is said, and what goes through JSON."""

import json
import re

import numpy as np
import pytest

from tests.series.data.tables import flights
from unrolled.errors import CallError
from unrolled.series.data import Column, Plan, Roles, panel_of

ROLES = Roles(
    "time",
    "departures",
    series="origin",
    known="holiday",
    past=["temp", "sky"],
    static=["runways", "origin"],
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return panel_of(flights(), ROLES, zone="America/New_York", least=24).plan


def test_one_name_is_as_good_as_several() -> None:
    assert Roles("t", "y") == Roles("t", ("y",)) == Roles("t", ["y"], series=None, known=[])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("t", ()), "targets: got none, expected the columns to forecast (--target)"),
        (("t", "t"), "target: got 't', which is given as time too; expected one role for a column"),
        (("t", ["y", "y"]), "target: got 'y', which is given as target too; expected one role"),
        ((5, "y"), "time: got 5, expected the name of a column"),
        (("t", 5), "targets: got 5, expected names of columns"),
        (("t", ["y", 5]), "targets: got ['y', 5], expected names of columns"),
    ],
)
def test_what_is_no_role_is_refused(arguments, message) -> None:
    with pytest.raises(CallError, match=re.escape(message)):
        Roles(*arguments)


def test_two_roles_of_a_column_are_refused_but_for_a_static_key() -> None:
    with pytest.raises(CallError, match="past: got 'x', which is given as known too"):
        Roles("t", "y", known="x", past="x")
    with pytest.raises(CallError, match="known: got 's', which is given as series too"):
        Roles("t", "y", series="s", known="s")
    assert Roles("t", "y", series="s", static="s").static == ("s",)
    with pytest.raises(
        CallError, match="categories: got 'y', expected a column of known, past or static"
    ):
        Roles("t", "y", categories="y")


def test_a_plan_goes_through_json_and_back(plan: Plan) -> None:
    assert Plan.of_record(json.loads(json.dumps(plan.record()))) == plan
    irregular = panel_of({"t": [0, 1, 5, 7], "y": [1.0] * 4}, Roles("t", "y"), frequency=None).plan
    assert Plan.of_record(json.loads(json.dumps(irregular.record()))) == irregular


def test_a_plan_has_the_roles_that_it_was_made_of(plan: Plan) -> None:
    roles = plan.roles
    assert set(roles.categories) == {"sky", "origin"}
    assert roles == Roles(**{**vars(ROLES), "categories": roles.categories})


def test_columns_are_named_in_the_order_of_the_arrays(plan: Plan) -> None:
    assert plan.targets == ["departures"] and plan.past == ["temp"] and plan.static == ["runways"]
    assert plan.known == ["holiday", "sin hour of day", "cos hour of day"]
    assert [c.levels for c in plan.categories("past")] == [("clear", "fog", "rain")]
    assert [c.levels for c in plan.categories("static")] == [("JFK", "LGA")]
    assert plan.categories("known") == []


def test_it_is_printed_as_a_table(plan: Plan) -> None:
    assert str(plan).splitlines() == [
        "column      role    type      missing  values",
        "time        time    time      none",
        "origin      series  key       none",
        f"departures  target  number    none     {plan.column('departures').told}",
        "holiday     known   number    none     0 to 1",
        f"temp        past    number    none     {plan.column('temp').told}",
        "sky         past    category  none     3 levels: clear, fog, rain",
        "runways     static  number    none     2 to 4",
        "origin      static  category  none     2 levels: JFK, LGA",
        "2 series of 400 rows",
        "every hour, from 2013-03-12 00:00:00 to 2013-03-20 07:00:00 (America/New_York); a season of "
        "24 steps",
        "features of the calendar: hour of day",
        "steps: 304 for training, 48 for validation, 48 for test",
    ]
    assert plan.column("departures").told.endswith(", counts")
    assert len(plan.HEAD) == len(plan.rows_of_columns()[0])


def test_gaps_unused_columns_and_irregular_times_are_said() -> None:
    table = {"t": [0, 10, 30, 50], "y": [1.0, None, 2.5, 2.0], "z": ["a", "b", "c", "d"]}
    facts = panel_of(table, Roles("t", "y")).plan.facts()
    assert facts[0] == "1 series of 4 rows, and 2 missing steps between them"
    assert facts[1] == "in steps of 10, from 0 to 50" and facts[-1] == "not used: z"
    facts = panel_of(table, Roles("t", "y"), frequency=None).plan.facts()
    assert facts[:2] == ["1 series of 4 rows", "irregular, usually every 20, from 0 to 50"]
    assert (
        "1.5 hours"
        in panel_of(
            {"t": np.array([0, 90, 180], "datetime64[m]"), "y": [1.0] * 3},
            Roles("t", "y"),
            frequency=None,
        ).plan.facts()[1]
    )


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (Column("y", "target", "number", least=0, most=9, is_whole=True), "0 to 9, counts"),
        (Column("y", "target", "number", least=-1, most=9, is_whole=True), "-1 to 9"),
        (Column("y", "past", "number", least=5, most=5), "always 5"),
        (Column("y", "past", "number", missing=1.0), "no value"),
        (Column("y", "past", "category", levels=tuple("abcde")), "5 levels: a, b, c, d, …"),
    ],
)
def test_what_was_seen_in_a_column_is_said(column: Column, told: str) -> None:
    assert column.told == told


def test_the_size_of_an_embedding_grows_with_the_levels() -> None:
    sizes = [Column("c", "past", "category", levels=("a",) * n).embedding for n in (1, 2, 10, 1000)]
    assert sizes == [2, 3, 6, 50]


def test_a_column_that_the_plan_has_not_is_refused(plan: Plan) -> None:
    with pytest.raises(
        CallError, match=r"column: got 'tmp', expected one of the plan; did you mean 'temp'\?"
    ):
        plan.column("tmp")
