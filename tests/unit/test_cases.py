"""Cases are computed once, claims carry their provenance, references are what they say."""

import json

import pytest
import torch

from dragkit import cache
from dragkit.attacks.rmle import RmleConfig
from dragkit.config import DragConfig
from dragkit.priors.diffusion import LatentPrior
from draglab import cases
from draglab.cases import Case
from draglab.pages import claims
from draglab.pages.claims import Claim


def test_work_is_done_once_and_survives_another_process(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"x": torch.arange(3.0)}

    for _ in range(2):
        assert cache.remember(tmp_path, {"a": 1}, work)["x"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    cache.remember(tmp_path, {"a": 2}, work)
    assert len(calls) == 2
    assert not list(tmp_path.rglob("*.partial"))


def test_a_failed_job_publishes_nothing(tmp_path):
    def fail():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        cache.remember(tmp_path, {"a": 1}, fail)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_specification_changes_with_all_that_matters():
    case = Case(DragConfig.ci(), "block:6")
    base = cases.specification(case, [1, 2], 0)
    others = [
        cases.specification(Case(DragConfig.ci().with_(clip=None), "block:6"), [1, 2], 0),
        cases.specification(Case(DragConfig.ci(), "block:7"), [1, 2], 0),
        cases.specification(Case(DragConfig.ci(), "block:6", defence="shuffle"), [1, 2], 0),
        cases.specification(Case(RmleConfig.fast(), "block:6"), [1, 2], 0),
        cases.specification(case, [1, 3], 0),
        cases.specification(case, [1, 2], 8),
    ]
    texts = [json.dumps(s, sort_keys=True) for s in (base, *others)]
    assert len(set(texts)) == len(texts)
    assert (
        json.dumps(cases.specification(Case(DragConfig.ci(), "block:6", n=64), [1, 2], 0), sort_keys=True) == texts[0]
    )


def test_a_specification_keeps_the_names_under_which_results_were_stored():
    told = cases.specification(Case(DragConfig.ci(), "block:6", subset="train"), [1, 2], 0)["case"]
    assert told["split"] == "train" and "subset" not in told


def test_unknown_defence_is_refused():
    with pytest.raises(ValueError, match="defence is 'blur'"):
        Case(DragConfig.ci(), "block:6", defence="blur")


def test_a_case_runs_end_to_end_on_the_embedded_models(tmp_path, monkeypatch):
    photos = torch.rand(3, 3, 64, 64)
    monkeypatch.setattr(cases.data, "pick", lambda subset, n, seed: (photos[:n], torch.arange(n), list(range(n))))
    case = Case(DragConfig(num_steps=2, recurrence=2), "block:2", n=3)
    first = cases.run(case, tmp_path, batch=2, progress=False)
    again = cases.run(case, tmp_path, batch=2, progress=False)
    assert first.images.shape == (3, 3, 64, 64) and first.nfe == 4
    torch.testing.assert_close(first.images, again.images, rtol=0, atol=0)
    assert first.seconds == again.seconds  # the stored measurement, not a new one
    shuffled = cases.run(Case(case.config, "block:2", n=3, defence="shuffle"), tmp_path, batch=2, progress=False)
    assert (shuffled.distance - first.distance).abs().max() > 1e-4


def test_an_interrupted_case_publishes_nothing_and_goes_on(tmp_path, monkeypatch):
    photos = torch.rand(2, 3, 64, 64)
    monkeypatch.setattr(cases.data, "pick", lambda subset, n, seed: (photos[:n], torch.arange(n), list(range(n))))
    case = Case(DragConfig(num_steps=6, recurrence=1), "block:2", n=2)
    whole = cases.run(case, tmp_path / "whole", progress=False)
    predict, calls = LatentPrior.predict_noise, []

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return predict(self, *given)

    monkeypatch.setattr(LatentPrior, "predict_noise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cases.run(case, tmp_path / "parts", progress=False)
    assert len(list(tmp_path.glob("parts/*/*.running"))) == 1 and not list(tmp_path.glob("parts/*/*/result*"))
    resumed = cases.run(case, tmp_path / "parts", progress=False)
    torch.testing.assert_close(resumed.images, whole.images)
    assert len(calls) == 4 + 3  # three turns were kept; the fourth is done again
    assert not list(tmp_path.glob("parts/*/*.running*"))


def _claim(**changes):
    fields = {"id": "a-claim", "statement": "s", "source": "here", "key": "k", "value": 1.0, "ci_low": 0.5}
    fields |= {"ci_high": 1.5, "n": 3, "unit": "", "holds": True, "notebook": "00_quickstart"}
    return Claim(**{**fields, **changes})


def test_claims_are_replaced_by_id_and_sorted(tmp_path):
    claims.write("first", "dragkit measure first", [0], [_claim(), _claim(id="b")], {"rows": {}}, tmp_path)
    claims.write("second", "dragkit measure second", [1], [_claim(value=2.0)], {"rows": {}}, tmp_path)
    stored = json.loads((tmp_path / "claims.json").read_text())
    assert [(c["id"], c["value"]) for c in stored] == [("a-claim", 2.0), ("b", 1.0)]
    assert stored[0]["provenance"]["command"] == "dragkit measure second" and stored[0]["provenance"]["seeds"] == [1]
    assert {"commit", "date", "device"} <= stored[0]["provenance"].keys()
    assert json.loads((tmp_path / "second.json").read_text())["rows"] == {}
