"""Sentences that pages make from recorded claims."""

import json

from dragkit import pages


def test_a_verdict_says_whether_a_claim_holds_or_that_it_was_not_measured(tmp_path):
    claim = {"id": "a", "statement": "Water is wet", "key": "wetness", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    claim |= {"n": 32, "unit": "", "holds": True}
    (tmp_path / "claims.json").write_text(json.dumps([claim, claim | {"id": "b", "holds": False}]))
    assert pages.verdict("a", tmp_path) == "Claim a holds here: Water is wet. wetness: 0.500 [0.400, 0.600], n = 32."
    assert pages.verdict("b", tmp_path).startswith("Claim b does not hold here: ")
    assert pages.verdict("c", tmp_path) == "Claim c: not measured here yet."
    assert pages.verdict("a", tmp_path / "empty") == "Claim a: not measured here yet."
