"""Events: each change once, in the words of the condition that people look at."""

from datetime import UTC, datetime

from burnish.api.v1alpha1.status import Condition, ConditionType
from burnish.errors import Reason
from burnish.reconcile import conditions
from burnish.reconcile.conditions import Claim

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _built(*claims: Claim, before: list[Condition] | None = None) -> list[Condition]:
    return conditions.build(claims, before or [], 1, NOW)


RESOLVING = (
    Claim(ConditionType.Ready, False, Reason.Resolving, "cpu: resolve"),
    Claim(ConditionType.Reconciling, True, Reason.Resolving, "cpu: resolve"),
    Claim(ConditionType.Stalled, False, Reason.Settled),
    Claim(ConditionType.SourceResolved, None, Reason.Resolving),
    Claim(ConditionType.ServingReady, False, Reason.NotServing),
    Claim(ConditionType.RolloutComplete, False, Reason.Resolving),
)
SERVING = (
    Claim(ConditionType.Ready, True, Reason.Serving, "cpu: static holds every limit"),
    Claim(ConditionType.Reconciling, False, Reason.Settled),
    Claim(ConditionType.ServingReady, True, Reason.Serving),
    Claim(ConditionType.RolloutComplete, True, Reason.Serving),
)


def test_new_resource_tells_one_thing() -> None:
    found = conditions.events([], _built(*RESOLVING))
    assert [(e.type, e.reason, e.text) for e in found] == [("Normal", Reason.Resolving, "cpu: resolve")]


def test_what_ready_says_is_not_said_again() -> None:
    before = _built(*RESOLVING)
    found = conditions.events(before, _built(*SERVING, before=before))
    assert [(e.reason, e.text) for e in found] == [(Reason.Serving, "cpu: static holds every limit")]
    assert conditions.events(_built(*SERVING), _built(*SERVING)) == ()


def test_loss_of_serving_is_a_warning() -> None:
    before = _built(*SERVING)
    found = conditions.events(before, _built(Claim(ConditionType.ServingReady, False, Reason.NotServing, "all servers are gone"), before=before))
    assert [(e.type, e.reason) for e in found] == [("Warning", Reason.NotServing)]


def test_trouble_of_a_roll_is_told() -> None:
    before = _built(*SERVING)
    found = conditions.events(before, _built(Claim(ConditionType.RolloutComplete, False, Reason.StoreCorrupted, "blob x"), before=before))
    assert [(e.type, e.reason) for e in found] == [("Warning", Reason.StoreCorrupted)]
