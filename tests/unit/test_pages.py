"""Sentences that pages make from recorded claims."""

import json

from draglab.pages import pages


def test_a_verdict_says_whether_a_claim_holds_or_that_it_was_not_measured(tmp_path):
    claim = {"id": "a", "statement": "Water is wet", "key": "wetness", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    claim |= {"n": 32, "unit": "", "holds": True}
    (tmp_path / "claims.json").write_text(json.dumps([claim, claim | {"id": "b", "holds": False}]))
    assert pages.verdict("a", tmp_path) == "Claim a holds here: Water is wet. wetness: 0.500 [0.400, 0.600], n = 32."
    assert pages.verdict("b", tmp_path).startswith("Claim b does not hold here: ")
    assert pages.verdict("c", tmp_path) == "Claim c: not measured here yet."
    assert pages.verdict("a", tmp_path / "empty") == "Claim a: not measured here yet."


def test_the_origin_names_where_the_attacks_ran_and_not_where_they_were_scored():
    told = {"command": "dragkit sweep published", "date": "2026-01-01", "commit": "abc", "device": "cpu (x86_64)"}
    rows = {"LM": {"per_photo": {"psnr": [1.0, 2.0]}, "made_on": ["some GPU"]}, "mean image": {}}
    line = pages.origin({"provenance": told, "rows": rows})
    assert "on 2 photos" in line and line.endswith("commit abc, some GPU.")


def test_rows_with_a_budget_become_curves_in_the_order_of_their_budgets():
    value = {"mean": 0.5, "ci": [0.4, 0.6]}
    rows = {"LM, 80 turns": {"turns": 80, "psnr": value}, "LM, 20 turns": {"turns": 20, "psnr": value}, "other": {}}
    assert pages.by_turns({"rows": rows}, "psnr") == {"LM": [[20, 80], [0.5, 0.5], [0.4, 0.4], [0.6, 0.6]]}
