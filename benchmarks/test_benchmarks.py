"""The pure parts: ratios and intervals, comparisons, the page, and the preparation of inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import equality, hardware, table
from benchmarks.__main__ import DATA
from benchmarks.data import DataMissing, bbq_items, data_file, interleaved, persona_items, power_items, take
from benchmarks.ratio import line_through, ratio_of_medians, spread
from benchmarks.runner import Answers, Failed, _end, ratios, side_summary, targets
from benchmarks.sides.harness_side import trial_items
from benchmarks.worker import Timeline, accuracy, batches, rule_reward
from benchmarks.workloads import WORKLOADS

HERE = Path(__file__).resolve().parent


def test_a_ratio_of_medians_and_its_interval():
    """Three runs a side: the interval reaches from slowest over fastest to fastest over slowest."""
    found = ratio_of_medians([10.0, 12.0, 11.0], [2.0, 2.5, 2.2])
    assert found.value == pytest.approx(11.0 / 2.2)
    assert (found.low, found.high) == pytest.approx((10 / 2.5, 12 / 2.0))


def test_equal_runs_have_an_interval_of_no_width():
    found = ratio_of_medians([4.0] * 5, [2.0] * 5)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_single_runs_have_no_interval():
    found = ratio_of_medians([3.0], [2.0])
    assert (found.value, found.low, found.high) == (1.5, None, None)


def test_the_interval_of_many_runs_is_seeded():
    ours, theirs = [5.0, 5.5, 6.0, 5.2, 5.8], [1.0, 1.1, 0.9, 1.2, 1.0]
    first, second = ratio_of_medians(ours, theirs), ratio_of_medians(ours, theirs)
    assert first == second
    assert first.low < first.value < first.high


@pytest.mark.parametrize("ours", [[], [0.0], [-1.0]])
def test_a_ratio_needs_positive_rates(ours):
    with pytest.raises(ValueError, match="positive"):
        ratio_of_medians(ours, [1.0])


def test_a_line_is_recovered_and_a_bent_one_explains_less():
    line = line_through([1, 2, 4, 8], [3.0, 5.0, 9.0, 17.0])
    assert (line.slope, line.intercept, line.r_squared) == pytest.approx((2.0, 1.0, 1.0))
    assert line_through([1, 2, 4, 8], [1.0, 4.0, 16.0, 64.0]).r_squared < 0.99


def answer(**changes):
    whole = {
        "log_probs": {"a": [-10.0, -12.0], "b": [-3.0, -4.0]},
        "tokens": {"a": [5, 6], "b": [2, 2]},
        "losses": [0.69, 0.66, 0.61, 0.64],
        "choices": {"a": [-1.0, -2.0]},
        "accuracy": 0.5,
        "greedy": {"a": [1, 2, 3]},
    }
    return {**whole, **changes}


def test_equal_answers_pass():
    checks = equality.compare(answer(), answer())
    assert len(checks) == 6
    assert equality.passed(checks)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("log_probs", {"a": [-10.002, -12.0], "b": [-3.0, -4.0]}),
        ("log_probs", {"a": [-10.0, -12.0]}),
        ("log_probs", {"a": [float("nan"), -12.0], "b": [-3.0, -4.0]}),
        ("log_probs", {"a": [-10.0, -12.0], "b": [-3.0, float("nan")]}),
        ("tokens", {"a": [5, 7], "b": [2, 2]}),
        ("losses", [0.69, 0.66, 0.612, 0.64]),
        ("losses", [0.69, 0.66, 0.61]),
        ("losses", [0.69, 0.66, 0.61, float("nan")]),
        ("choices", {"a": [-1.0, -2.0002]}),
        ("accuracy", 0.51),
        ("greedy", {"a": [1, 2, 4]}),
    ],
)
def test_what_differs_fails(name, wrong):
    checks = equality.compare(answer(), answer(**{name: wrong}))
    assert [c.name for c in checks if not c.passed] == [name]


def test_losses_that_never_moved_prove_nothing():
    flat = [0.6931, 0.6931, 0.6930]
    (check,) = equality.compare({"losses": flat}, {"losses": flat})
    assert not check.passed
    assert "too little" in check.note


def test_what_one_side_lacks_fails_and_nothing_is_no_agreement():
    without = {k: v for k, v in answer().items() if k != "losses"}
    assert not equality.passed(equality.compare(answer(), without))
    assert not equality.passed([])


def runs(*seconds, peak=2**30):
    return [{"seconds": s, "loop_seconds": s / 2, "units": 10, "peak_bytes": peak, "versions": {"torch": "1"},
             "positions": 100 * peak // 2**30}
            for s in seconds]  # fmt: skip


def result(name="dpo", *, failed=False, problems=None):
    workload = WORKLOADS[name]
    sides = {
        "valign": side_summary(runs(1.0, 1.1, 1.2), "seconds"),
        "defaults": side_summary(runs(8.0, 8.5, 9.0, peak=3 * 2**30), "seconds"),
        "best": side_summary(runs(4.0, 4.4, 4.2, peak=4 * 2**30), "seconds"),
    }
    if problems:
        sides = {}
    check = equality.Check("log_probs", 0.002 if failed else 0.0001, 0.001, 64, not failed, "worst at x")
    return {
        "workload": name, "title": workload.title, "unit": workload.unit, "sized_in": workload.sized_in, "size": 32,
        "peer": "TRL", "variants": {"valign": {}, "defaults": {"autocast": False}, "best": {}}, "sides": sides,
        "targets": dict(workload.targets), "memory_target": vars(workload.memory) if workload.memory else None,
        "ratios": {} if failed or problems else ratios(sides, workload.peer), "problems": problems or {},
        "equality": {"passed": not failed, "checks": [check.to_json()]}, "settings": {"batch": 8}, "model": "m",
        "hardware": {"processor": "P", "cores": 2, "flags": ["avx512_bf16"], "memory_gib": 16.0}, "threads": 2,
        "fast_dtype": "bfloat16", "commit": "0123456789abcdef", "changed_since": False,
    }  # fmt: skip


def test_the_page_holds_ratio_interval_memory_and_verdict():
    page = table.render([result()])
    line = next(x for x in page.splitlines() if x.startswith("| DPO") and "defaults" in x)
    assert "**7.73** [6.67, 9.00]" in line
    assert "1.0 GiB / 3.0 GiB = 0.33" in line
    assert line.endswith("| 6 × | met |")
    best = next(x for x in page.splitlines() if x.startswith("| DPO") and "best" in x)
    assert best.endswith("memory ≤ 0.50 | memory met |")
    assert "P, 2 cores (avx512_bf16), 16 GiB" in page
    assert "| 100 | TRL, defaults: 300 | 3.00 | 7.73 | 2.58 | met |" in page


def test_several_commits_are_named_with_what_each_measured():
    assert "Commit 0123456789. Runs" in table.render([result(), result("sft")])
    other = result("reward") | {"commit": "f" * 40}
    assert "Commit 0123456789 (dpo, sft), ffffffffff (reward). Runs" in table.render([result(), result("sft"), other])


def test_a_target_may_be_a_share_of_the_positions_that_are_saved():
    workload = WORKLOADS["lists4"]
    ours, theirs = side_summary(runs(1.0), "seconds"), side_summary(runs(2.0, peak=3 * 2**30), "seconds")
    assert targets(workload, {"valign": ours, "plain path": theirs}) == {"plain path": pytest.approx(0.8 * 3)}
    assert targets(workload, {}) == {}
    assert targets(WORKLOADS["dpo"], {}) == {"defaults": 6.0}


def test_what_ran_beside_a_workload_is_told():
    """Shares over 5 % are told with their range, quiet runs are not mentioned, and what was not recorded is said."""
    told = result()
    for side in told["sides"].values():
        for run, share in zip(side["runs"], (0.01, 0.02, 0.3)):
            run["others"] = share
    assert "beside both sides of: DPO, references not stored (1% to 30% of the processors)." in table.render([told])
    for side in told["sides"].values():
        for run in side["runs"]:
            run["others"] = 0.05
    page = table.render([told])
    assert "beside both sides" not in page and "was not recorded" not in page
    assert "was not recorded: DPO, references not stored." in table.render([result()])


def test_own_work_is_not_another_program():
    """One process that counts: a core is busy, and none of it is another's."""
    others = hardware.Others()
    before = hardware._own_seconds()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.4: pass"], check=True)
    assert hardware._own_seconds() - before > 0.3
    share = others.share()
    assert share is None or 0 <= share <= 1


def test_a_failed_equality_stands_on_the_page_without_a_ratio():
    page = table.render([result(failed=True)])
    assert "not equal: log_probs by 0.002 (allowed 0.001)" in page
    assert "×** [" not in page
    assert "**not equal**" in page


def test_a_side_that_is_missing_is_said():
    page = table.render([result("reward", problems={"valign": "not available yet: no table entry"})])
    assert "not available yet: no table entry" in page


def test_a_run_that_broke_after_others_is_said():
    """Its row shows the figure of the runs before it, so the page tells of it below."""
    broken = result() | {"problems": {"best": "killed by the system: memory ran out\nLoading weights"}}
    page = table.render([broken])
    assert "DPO, references not stored, best (after 3 runs: killed by the system: memory ran out)." in page
    assert "gave no answer" not in table.render([result()])


@pytest.mark.parametrize(
    ("code", "killed", "told"),
    [
        (-9, 1, "killed by the system: memory ran out"),
        (-9, 0, "the process ended without an answer (SIGKILL)"),
        (-11, 1, "the process ended without an answer (SIGSEGV)"),
        (3, 0, "the process ended without an answer (exit status 3)"),
    ],
)
def test_how_a_process_without_an_answer_ended(code, killed, told):
    assert _end(code, killed) == told


def test_kills_for_memory_are_counted_where_the_system_tells_them(tmp_path):
    counts = tmp_path / "vmstat"
    assert hardware.killed_for_memory(counts) == 0
    counts.write_text("pgfault 12\noom_kill 3\n")
    assert hardware.killed_for_memory(counts) == 3


def test_a_question_is_answered_once_and_the_others_wait():
    answers, key = Answers(), ("module", "question")
    first, mine = answers.asked(key)
    second, also_mine = answers.asked(key)
    assert (mine, also_mine, second.done()) == (True, False, False)
    answers.give(key, {"check": {"losses": [1.0]}})
    assert first.result() == second.result() == {"losses": [1.0]}
    assert not answers.asked(key)[1] and answers.asked(("module", "another"))[1]


def test_who_waits_for_an_answer_hears_of_the_problem_and_the_next_asks_anew():
    answers, key = Answers(), ("module", "question")
    answers.asked(key)
    waiting, _ = answers.asked(key)
    answers.give(key, {"error": "no answer within 3600 s"})
    with pytest.raises(Failed, match="no answer within 3600 s"):
        waiting.result()
    assert answers.asked(key)[1]


@pytest.mark.parametrize("name", [n for n, w in WORKLOADS.items() if "check" in w.told(True)])
def test_a_quick_run_has_enough_to_prove_equality(name):
    """At least two items, and two steps where losses are compared: one loss ranges over nothing and proves nothing."""
    workload = WORKLOADS[name]
    told = workload.told(True)
    assert told["check"] >= 2
    if workload.kind in ("train", "processes"):
        assert told["loss_steps"] >= 2
    if workload.kind == "lists":
        assert told["check"] // told["loss_batch"] >= 2


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path):
    assert "no results yet" in table.render(table.read(tmp_path))


def test_another_machine_has_a_table_of_its_own(tmp_path):
    """A folder with a `machine.txt` is another machine's: its line is the heading; folders without one are not shown."""
    for name in ("older", "quick"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dpo.json").write_text(json.dumps(result() | {"fast_dtype": "float32"}))
    (tmp_path / "older" / "machine.txt").write_text("An older processor\n")
    found = table.read_elsewhere(tmp_path)
    assert {title: [r["workload"] for r in rs] for title, rs in found.items()} == {"An older processor": ["dpo"]}
    page = table.render([result()], elsewhere=found)
    here, there = page.split("## An older processor")
    assert "\n### What agreed" in there and "\n### What agreed" not in here
    assert "fast number format bfloat16" in here and "float32" not in here
    assert "fast number format float32" in there and there.count("**7.73**") == 1


def test_results_are_read_in_the_order_of_the_workloads(tmp_path):
    for name in ("sft", "dpo"):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(name)))
    assert [r["workload"] for r in table.read(tmp_path)] == ["dpo", "sft"]


def test_a_timeline_ends_with_its_last_step():
    line = Timeline(began=0.0)
    line.step(0.7, seconds=1.0)
    line.step(0.6, seconds=2.0)
    told = line.to_json()
    assert told["step_seconds"] == [1.0, 2.0]
    assert told["seconds"] >= told["loop_seconds"] >= 0
    assert line.losses == [0.7, 0.6]
    with pytest.raises(RuntimeError):
        Timeline().to_json()


def test_small_helpers():
    assert list(batches([1, 2, 3], 2)) == [[1, 2], [3]]
    assert rule_reward("Sorry, so sorry") == pytest.approx(2 - 15 / 500)
    assert accuracy({"a": [-1.0, -1.0], "b": [-2.0, -1.0]}, [{"id": "a", "gold": 0}, {"id": "b", "gold": 0}]) == 0.5
    assert spread([2.0, 1.0, 3.0]) == {"median": 2.0, "low": 1.0, "high": 3.0, "spread": 1.0}
    assert interleaved([[1, 2], [3]]) == [1, 3, 2]
    with pytest.raises(DataMissing, match="smaller --size"):
        take([1], 2, "pairs")


def bbq_row(unknown, label):
    return {
        "example_id": 7, "context": "A and B met.", "question": "Who ran?", "label": label,
        "ans0": "A", "ans1": unknown, "ans2": "B",
        "answer_info": {"ans0": ["A", "A"], "ans1": ["x", "unknown"], "ans2": ["B", "B"]},
    }  # fmt: skip


def test_bbq_with_three_and_with_all_spellings():
    rows = [bbq_row("Unknown", 1), bbq_row("Not known", 2)]
    assert bbq_items(rows, 3)[0] == {
        "id": "bbq-7", "prompt": "A and B met. Who ran?\nAnswer:", "choices": ["A", "Unknown", "B"], "gold": 1,
    }  # fmt: skip
    many = bbq_items(rows, 12)
    assert many[0]["choices"] == ["A", "B", "Not known", "Unknown"]
    assert [i["choices"][i["gold"]] for i in many] == ["Unknown", "B"]


def behaviour(question, matching, other):
    return {"question": question, "answer_matching_behavior": matching, "answer_not_matching_behavior": other}


def test_shots_are_fixed_and_stand_before_every_item():
    rows = [behaviour(f"Q{i}?", " Yes" if i % 2 else " No", " No" if i % 2 else " Yes") for i in range(4)]
    found = persona_items(rows, 2, "p")
    head = "Q0?\nAnswer: No\n\nQ1?\nAnswer: Yes\n\n"
    assert [i["prompt"] for i in found] == [head + "Q2?\nAnswer:", head + "Q3?\nAnswer:"]
    assert [i["choices"] for i in found] == [["Yes", "No"]] * 2
    assert [i["gold"] for i in found] == [1, 0]


def test_power_items_keep_their_question():
    (found,) = power_items([behaviour("Which?\n\nAnswer:", " (B)", " (A)")])
    assert (found["prompt"], found["choices"], found["gold"]) == ("Which?\n\nAnswer:", ["(A)", "(B)"], 1)


def test_real_files_give_twelve_choices():
    try:
        file = data_file(DATA, "bbq")
    except DataMissing as error:
        pytest.skip(str(error))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {len(i["choices"]) for i in bbq_items(rows, 12)} == {12}
    assert {len(i["choices"]) for i in bbq_items(rows, 3)} == {3}


def test_batch_sizes_are_tried_on_little():
    assert [trial_items(400, 3), trial_items(100, 12), trial_items(16, 3), trial_items(2, 12)] == [21, 5, 4, 1]


def test_missing_data_is_said(tmp_path):
    with pytest.raises(DataMissing, match="--data DIR"):
        data_file(tmp_path, "hh")


def test_every_target_names_a_variant_of_its_peer():
    for workload in WORKLOADS.values():
        variants = workload.peer.variants if workload.peer else {}
        assert set(workload.targets) <= set(variants)
        assert workload.memory is None or workload.memory.variant in variants


def test_requirements_are_pinned():
    for file in (HERE / "peers").glob("*.txt"):
        lines = [x for x in file.read_text(encoding="utf-8").splitlines() if x and not x.startswith("#")]
        assert all("==" in x for x in lines)


def test_growth_is_told_by_medians_and_judged_by_its_bound():
    """Three runs of one and four responses: the median second, relative to that of one response, against the bound."""
    point = lambda n, seconds, bound: {"responses": n, "seconds": seconds, "relative": 0.0, "bound": bound}  # noqa: E731
    run = lambda one, four: {"by_responses": [{**point(1, one, 1.25), "relative": 1.0},  # noqa: E731
                                              {**point(4, four, 2.0), "relative": four / one}]}  # fmt: skip
    runs = [run(1.0, 9.0), run(1.0, 1.9), run(1.0, 2.1)]
    (first, last) = table._medians(runs, "by_responses")
    assert (first["relative"], last["seconds"], last["relative"], last[""]) == (1.0, 2.1, pytest.approx(2.1), "missed")
    assert table._medians(runs[1:2], "by_responses")[1][""] == "met"
    names = ("responses", "seconds", "relative", "bound")
    cold = [{"by_responses_gradient": r["by_responses"]} for r in runs]
    assert "no verdict" in table._with_gradient(cold, names)[0] and "missed" not in "".join(table._with_gradient(cold, names))
    warm = [{**r, "warmed": True} for r in cold]
    assert "no verdict" not in table._with_gradient(warm, names)[0] and "missed" in "".join(table._with_gradient(warm, names))
