"""What Factorize's options may say, and where it stands among other passes."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError

from burnish.errors import Reason
from burnish.plugins import base, order, registry
from burnish.plugins.passes.factorize import FactorizeConfig
from burnish.plugins.passes.prune import PruneConfig

RUNTIME = registry.runtimes()["ONNXRuntime"]
FACTORIZE = base.PassRequest("Factorize", FactorizeConfig())
AIMS = {"rank": 8, "energyPercent": 80, "macsPercent": 50}


def _prune(method: str) -> base.PassRequest:
    return base.PassRequest("Prune", PruneConfig.model_validate({"method": method}))


def _objection(*passes: base.PassRequest, has_training: bool = True) -> base.Objection | None:
    return order.objection(passes, RUNTIME, has_calibration=True, has_training=has_training)


@pytest.mark.parametrize("aim", AIMS)
def test_one_aim_is_taken(aim: str) -> None:
    assert FactorizeConfig.model_validate({aim: AIMS[aim]}).model_dump(by_alias=True)[aim] == AIMS[aim]


@pytest.mark.parametrize("pair", list(itertools.combinations(AIMS, 2)))
def test_two_aims_are_refused_naming_the_other(pair: tuple[str, str]) -> None:
    with pytest.raises(ValidationError, match=f"stands beside {pair[0]}, and each decides the ranks; keep one"):
        FactorizeConfig.model_validate({aim: AIMS[aim] for aim in pair})


@pytest.mark.parametrize("value", [0, 100, float("nan")])
@pytest.mark.parametrize("aim", ["energyPercent", "macsPercent"])
def test_nothing_and_everything_are_no_aims(aim: str, value: float) -> None:
    with pytest.raises(ValidationError):
        FactorizeConfig.model_validate({aim: value})


def test_zeros_that_would_be_gone_are_not_made_before() -> None:
    found = _objection(_prune("Magnitude"), FACTORIZE)
    assert found is not None and (found.reason, found.position) == (Reason.PassNotApplicable, 1)
    assert "put Prune after Factorize" in found.message


@pytest.mark.parametrize("passes", [(_prune("Structured"), FACTORIZE), (FACTORIZE, _prune("Magnitude")), (FACTORIZE,)])
def test_other_orders_make_sense(passes: tuple[base.PassRequest, ...]) -> None:
    assert _objection(*passes) is None


def test_a_second_one_is_refused() -> None:
    found = _objection(FACTORIZE, FACTORIZE)
    assert found is not None and found.position == 1 and "keep one entry" in found.message


def test_data_is_needed_for_the_training_alone() -> None:
    found = _objection(FACTORIZE, has_training=False)
    assert found is not None and found.reason is Reason.TrainingDataMissing
    assert _objection(base.PassRequest("Factorize", FactorizeConfig.model_validate({"finetune": {"epochs": 0}})), has_training=False) is None
