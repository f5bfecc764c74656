"""The real pipeline, as the process that the service starts, on real digits with recipes of seconds."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from worker import pipeline
from worker import plan as agreed
from worker.jobs import device
from worker.unlearning import adversarial, amun, baselines, networks, training

ROOT = Path(__file__).parents[2]
RECIPE = agreed.RecipeSpec(
    epochs=4,
    batch_size=32,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="one-cycle",
    augment=False,
    mixed_precision=True,
    compiled=False,
)
ATTACK = agreed.AttackSpec(
    method="boundary",
    batch_size=256,
    rival_classes=2,
    steps=30,
    bisections=6,
    eps_start=0.04,
    doublings=12,
    mixed_precision=False,
)
UNLEARN = agreed.UnlearnSpec(
    form="retain+adversarial",
    learning_rate=0.01,
    weight_scale=1.0,
    weight_power=1.0,
    weight_spread=True,
    schedule="linear",
    epochs=2,
    batch_size=64,
    momentum=0.9,
    weight_decay=5e-4,
    augment=False,
    retain_share=1.0,
    saliency_share=None,
    mixed_precision=True,
)
AUDIT = agreed.AuditSpec(tolerance=0.1, tolerance_membership=0.5, level=0.05, rmia_offline_a=0.3, rmia_gamma=1.0)
UTILITY = agreed.UtilitySpec(tolerance_accuracy=0.05)
LADDER = agreed.LadderSpec(
    amun_steps=1,
    stronger=2.0,
    weaker=0.5,
    saliency_share=0.5,
    retrain=False,
    retrain_inconclusive=False,
    straight_to_retraining=False,
)
REHEARSAL = agreed.RehearsalSpec(
    models=2,
    sizes=[40],
    requests=1,
    shown_on=1,
    learning_rates=[0.01],
    weight_scales=[0.5, 2.0],
    tolerance_accuracy=0.02,
)
NETWORK = agreed.NetworkSpec(name="small-cnn", width=4)


def command(folder, *options):
    return [sys.executable, "-m", "worker.pipeline", str(folder / "plan.json"), str(folder), *options]


def run(plan, folder, device="cpu"):
    """Run the pipeline as a process; returns its exit status, result and lines of progress."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan if isinstance(plan, str) else agreed.dump(plan))
    done = subprocess.run(
        command(folder),
        cwd=ROOT,
        env={**os.environ, "AMUN_DEVICE": device},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [agreed.Progress(**json.loads(line)) for line in done.stdout.splitlines()]
    return done.returncode, agreed.load_result(folder / "result.json"), lines


def run_here(plan, folder):
    """The same without a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan if isinstance(plan, str) else agreed.dump(plan))
    stream = io.StringIO()
    pipeline.run(folder / "plan.json", folder, stream)
    result = agreed.load_result(folder / "result.json")
    return result, [agreed.Progress(**json.loads(line)) for line in stream.getvalue().splitlines()]


def failure(plan, folder):
    """The error of a plan that must fail, and leave nothing but its result."""
    result, _ = run_here(plan, folder)
    assert result.status == "failed"
    assert result.outcome is None
    assert set(os.listdir(folder)) == {"plan.json", "result.json"}
    return result.error


@pytest.fixture(autouse=True)
def on_one_thread_of_the_cpu(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("AMUN_DEVICE", "cpu")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("register")
    plan = agreed.RegisterPlan(agreed.Source("builtin", "digits"), agreed.Controls(share=0.5), seed=3)
    return folder, run(plan, folder)


@pytest.fixture(scope="module")
def data(registered):
    folder, (_, result, _) = registered
    return agreed.DataFiles(
        pixels=str(folder / "pixels.u8"),
        labels=str(folder / "labels.i32"),
        digests=str(folder / "digests.bin"),
        rows=result.outcome["rows"],
        shape=tuple(result.outcome["shape"]),
        classes=result.outcome["classes"],
    )


@pytest.fixture(scope="module")
def splits(registered):
    lines = [json.loads(line) for line in (registered[0] / "manifest.jsonl").read_text().splitlines()]
    return {split: [line["index"] for line in lines if line["split"] == split][:400] for split in ("train", "control")}


@pytest.fixture(scope="module")
def train_plan(data, splits):
    return agreed.TrainPlan(
        data=data,
        network=NETWORK,
        recipe=RECIPE,
        train=splits["train"],
        controls=splits["control"],
        references=8,
        rehearsal=REHEARSAL,
        attack=ATTACK,
        unlearn=UNLEARN,
        audit=AUDIT,
        seed=5,
        threads=1,
    )


@pytest.fixture(scope="module")
def trained(train_plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    return folder, run(train_plan, folder)


@pytest.fixture(scope="module")
def unlearn_plan(train_plan, trained, splits):
    folder = trained[0]
    return agreed.UnlearnPlan(
        data=train_plan.data,
        network=NETWORK,
        recipe=RECIPE,
        base=agreed.CheckpointFile(
            path=str(folder / "checkpoint.safetensors"),
            sha256=hashlib.sha256((folder / "checkpoint.safetensors").read_bytes()).hexdigest(),
        ),
        signals=agreed.SignalFiles(phi=str(folder / "phi.f32"), members=str(folder / "members.u8"), references=8),
        forget=splits["train"][:40],
        retain=splits["train"][40:],
        calibration=splits["control"][0::2],
        audit_controls=splits["control"][1::2],
        requests=[splits["train"][:40]],
        attack=ATTACK,
        unlearn=UNLEARN,
        audit=AUDIT,
        utility=UTILITY,
        ladder=LADDER,
        compare_retrained=True,
        seed=6,
        threads=1,
    )


@pytest.fixture(scope="module")
def unlearned(unlearn_plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlearn")
    return folder, run(unlearn_plan, folder)


# --- the way through --------------------------------------------------------------------------------------------------


def test_registering_writes_rows_that_match_the_manifest(registered):
    folder, (returncode, result, _) = registered
    assert (returncode, result.status) == (0, "succeeded")
    assert (result.outcome["rows"], result.outcome["train"], result.outcome["controls"]) == (1797, 899, 898)
    pixels = np.fromfile(folder / "pixels.u8", np.uint8).reshape(1797, 64)
    labels = np.fromfile(folder / "labels.i32", np.int32)
    digests = np.fromfile(folder / "digests.bin", np.uint8).reshape(1797, 32)
    manifest = (folder / "manifest.jsonl").read_bytes()
    assert result.outcome["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    for line in map(json.loads, manifest.splitlines()):
        row = line["index"]
        assert line["sha256"] == hashlib.sha256(pixels[row]).hexdigest() == digests[row].tobytes().hex()
        assert line["label"] == labels[row]
        assert line["file_sha256"] is None
        assert line["key"].startswith("control/" if line["split"] == "control" else "train/")


def test_result_lists_every_file_with_its_digest(registered, trained, unlearned):
    for folder, (_, result, _) in (registered, trained, unlearned):
        names = {file.name for file in result.files}
        assert names == set(os.listdir(folder)) - {"plan.json", "result.json"}
        for file in result.files:
            content = (folder / file.name).read_bytes()
            assert (file.sha256, file.size) == (hashlib.sha256(content).hexdigest(), len(content))


def test_training_leaves_a_checkpoint_and_the_signals_of_live_rows_alone(trained, splits):
    folder, (returncode, result, _) = trained
    assert (returncode, result.status) == (0, "succeeded")
    assert {file.name for file in result.files} == {"checkpoint.safetensors", "phi.f32", "members.u8"}
    members = np.fromfile(folder / "members.u8", np.uint8).reshape(1797, 8)
    phi = np.fromfile(folder / "phi.f32", np.float32).reshape(1797, 8)
    live = np.zeros(1797, dtype=bool)
    live[splits["train"] + splits["control"]] = True
    assert (members[live].sum(1) == 4).all()
    assert (members[:, 0::2] + members[:, 1::2])[live].all()
    assert not members[~live].any()
    assert not phi[~live].any()
    assert phi[live].all()
    outcome = result.outcome
    assert outcome["accuracy_train"] > 0.5
    assert outcome["reference_train_size"] == 400
    assert [strength["size"] for strength in outcome["rehearsal"]] == [40]
    assert outcome["reference_weights_deleted"] is True


def uploaded(plan, path):
    file = agreed.CheckpointFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    return dataclasses.replace(plan, checkpoint=file)


def test_an_uploaded_model_is_checked_instead_of_trained_and_its_references_are_trained(trained, train_plan, tmp_path):
    elsewhere = tmp_path / "elsewhere.safetensors"
    tensors = load_file(trained[0] / "checkpoint.safetensors")
    save_file(tensors, elsewhere, metadata={"made": "elsewhere"})
    plan = uploaded(
        dataclasses.replace(train_plan, train=train_plan.train[:200], controls=train_plan.controls[:200]), elsewhere
    )
    returncode, result, lines = run(plan, tmp_path / "out")
    assert (returncode, result.status) == (0, "succeeded")
    saved = load_file(tmp_path / "out/checkpoint.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in tensors.items())
    assert {file.name for file in result.files} == {"checkpoint.safetensors", "phi.f32", "members.u8"}
    outcome = result.outcome
    assert (outcome["uploaded"], trained[1][1].outcome["uploaded"]) == (True, False)
    assert outcome["reference_train_size"] == 200
    assert outcome["reference_weights_deleted"] is True
    assert [strength["size"] for strength in outcome["rehearsal"]] == [40]
    assert outcome["accuracy_train"] > 0.5
    assert set(result.seconds) == set(agreed.TRAIN_PHASES)
    progress = [line.progress for line in lines]
    assert (progress == sorted(progress), progress[-1]) == (True, 1.0)


def test_unlearning_measures_the_model_before_after_and_retrained(unlearned, unlearn_plan):
    folder, (returncode, result, _) = unlearned
    assert (returncode, result.status) == (0, "succeeded")
    outcome = result.outcome
    for model in ("before", "after", "retrained"):
        audit, utility = outcome[model]["audit"], outcome[model]["utility"]
        assert audit["verdict"] in ("pass", "over_unlearned", "under_unlearned", "inconclusive")
        assert [one["name"] for one in audit["estimates"] if one["role"] == "primary"] == ["z"]
        assert [sample["index"] for sample in audit["samples"]] == unlearn_plan.forget
        assert {len(scores["forget"]) for scores in audit["scores"].values()} == {40}
        assert utility["controls_low"] < utility["controls"] < utility["controls_high"]
        assert set(utility["controls_by_class"]) == set("0123456789")
        assert 0 < outcome[model]["retained"]["low"] < 1
        assert outcome[model]["boundary"]["forget_median"] > 0
        (own,) = outcome[model]["slices"]
        assert (own["verdict"], own["estimates"]) == (audit["verdict"], audit["estimates"])
        assert own["worst"] == max(audit["samples"], key=lambda sample: sample["z"])["index"]
    assert outcome["before"]["changed"] is None
    assert outcome["after"]["changed"]["low"] <= outcome["after"]["changed"]["value"]
    (step,) = outcome["steps"]
    assert len(step["losses"]) == step["epochs"] == 2
    assert (step["method"], step["started_from"], step["weight_scale"]) == ("amun", "base", 1.0)
    assert (step["verdict"], step["estimates"]) == (outcome["verdict"], outcome["after"]["audit"]["estimates"])
    summary = outcome["adversarial"]
    assert summary["found"] + len(summary["not_found"]) == 40
    quantiles = list(summary["distance_quantiles"].values())
    assert quantiles == sorted(quantiles)
    tensors = load_file(folder / "checkpoint.safetensors")
    base = load_file(unlearn_plan.base.path)
    assert any(not torch.equal(tensors[name], base[name]) for name in base)


def test_an_original_that_the_audit_cannot_see_is_said_to_be_no_evidence(unlearned):
    outcome = unlearned[1][1].outcome
    seen = outcome["before"]["audit"]["verdict"] == "under_unlearned"
    assert outcome["detectable_before"] is seen
    assert any("no evidence" in reason for reason in outcome["after"]["audit"]["reasons"]) is not seen


def test_progress_rises_to_one_through_the_phases_that_are_agreed(registered, trained, unlearned):
    phases = (agreed.REGISTER_PHASES, agreed.TRAIN_PHASES, agreed.UNLEARN_PHASES)
    for (_, (_, result, lines)), expected in zip((registered, trained, unlearned), phases, strict=True):
        assert {line.phase for line in lines} == set(expected)
        assert (lines[0].phase, lines[-1].phase) == (expected[0], expected[-1])
        assert set(result.seconds) == set(expected)
        progress = [line.progress for line in lines]
        assert progress == sorted(progress)
        assert (progress[0], progress[-1]) == (0.0, 1.0)
        assert lines[0].eta_seconds is None
        assert lines[-1].eta_seconds == 0.0


def test_the_environment_is_the_one_it_ran_in(trained):
    environment = trained[1][1].environment
    assert (environment.device, environment.threads, environment.torch) == ("cpu", 1, torch.__version__)


def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(
    trained, train_plan, unlearned, unlearn_plan, tmp_path
):
    _, again, _ = run(train_plan, tmp_path / "same")  # another process
    assert again.files == trained[1][1].files
    assert again.outcome == trained[1][1].outcome
    other, _ = run_here(dataclasses.replace(unlearn_plan, seed=99, compare_retrained=False), tmp_path / "other")
    assert other.files != unlearned[1][1].files
    assert other.outcome["retrained"] is None
    assert "retrain" not in other.seconds


def test_five_samples_are_unlearned_and_judged_without_an_auc(unlearn_plan, tmp_path):
    first = unlearn_plan.forget[:5]
    few = dataclasses.replace(unlearn_plan, forget=first, requests=[first], compare_retrained=False)
    result, _ = run_here(few, tmp_path)
    audit = result.outcome["after"]["audit"]
    assert [one["name"] for one in audit["estimates"]] == ["membership"]
    assert audit["blind_auc"] is None
    assert result.outcome["after"]["changed"] is None
    assert result.outcome["after"]["boundary"]["auc"] is None
    assert result.outcome["after"]["retained"] is not None


def test_without_a_retained_set_the_form_that_needs_none_runs(unlearn_plan, tmp_path):
    alone = dataclasses.replace(
        unlearn_plan, unlearn=dataclasses.replace(UNLEARN, form="forget+adversarial"), compare_retrained=False
    )
    assert run_here(alone, tmp_path)[0].status == "succeeded"


# --- the ladder -------------------------------------------------------------------------------------------------------

# An audit that finds fault with whatever is not exactly like never trained on, to climb on real runs of seconds.
STRICT = dataclasses.replace(AUDIT, tolerance=1e-4, tolerance_membership=1e-4, level=0.99)


def outcome_of(plan, folder, **ladder):
    plan = dataclasses.replace(plan, ladder=dataclasses.replace(plan.ladder, **ladder))
    result, lines = run_here(plan, folder)
    assert result.status == "succeeded", result.error
    progress = [line.progress for line in lines]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    return result, result.outcome


@pytest.fixture
def strict_plan(unlearn_plan):
    return dataclasses.replace(unlearn_plan, audit=STRICT, compare_retrained=False)


def with_copies(plan, folder, copies):
    """The same plan where the retained rows ``copies`` hold the image of the first forgotten row."""
    pixels = np.fromfile(plan.data.pixels, np.uint8).reshape(-1, 64)
    digests = np.fromfile(plan.data.digests, np.uint8).reshape(-1, 32)
    for array in (pixels, digests):
        array[copies] = array[plan.forget[0]]
    pixels.tofile(folder / "pixels")
    digests.tofile(folder / "digests")
    files = dataclasses.replace(plan.data, pixels=str(folder / "pixels"), digests=str(folder / "digests"))
    return dataclasses.replace(plan, data=files), digests


def test_where_nothing_helps_the_ladder_ends_in_a_model_trained_without_the_forgotten_and_their_copies(
    strict_plan, tmp_path
):
    plan, digests = with_copies(strict_plan, tmp_path, strict_plan.retain[3:5])
    result, outcome = outcome_of(plan, tmp_path / "out", amun_steps=3, retrain=True)
    steps = outcome["steps"]
    assert [step["number"] for step in steps] == [1, 2, 3, 4]
    assert [step["method"] for step in steps] == ["amun", "amun", "amun-a+salun", "retrain"]
    assert {step["verdict"] for step in steps[:3]} <= {"under_unlearned", "over_unlearned"}
    assert steps[2]["saliency_share"] == 0.5
    assert len({(step["method"], step["weight_scale"]) for step in steps}) == 4
    assert (outcome["verdict"], outcome["withdraw"], outcome["retrained"]) == ("exact", False, None)
    assert outcome["incident"] is (steps[3]["verdict"] in ("under_unlearned", "over_unlearned"))
    assert (steps[3]["learning_rate"], steps[3]["epochs"], len(steps[3]["losses"])) == (None, 4, 4)
    kept = [row for row in plan.retain if row not in plan.retain[3:5]]
    listed = b"".join(sorted(digests[row].tobytes() for row in kept))
    assert outcome["provenance"]["samples"] == len(kept)
    assert outcome["provenance"]["copies_left_out"] == 2
    assert outcome["provenance"]["samples_sha256"] == hashlib.sha256(listed).hexdigest()
    assert [file.name for file in result.files] == ["checkpoint.safetensors"]


def test_the_checkpoint_of_a_retrained_step_is_that_of_its_recipe_and_seed(strict_plan, tmp_path):
    _, outcome = outcome_of(strict_plan, tmp_path, straight_to_retraining=True)
    rows = strict_plan.retain
    pixels = np.fromfile(strict_plan.data.pixels, np.uint8).reshape(-1, 1, 8, 8)[rows]
    labels = np.fromfile(strict_plan.data.labels, np.int32)[rows]
    own = baselines.retrain(
        lambda: networks.build(NETWORK.name, shape=(1, 8, 8), classes=10, width=NETWORK.width),
        training.laid_out(torch.from_numpy(pixels).float().div_(255)),
        torch.from_numpy(labels).long(),
        **dataclasses.asdict(RECIPE),
        seed=int(outcome["provenance"]["seed"]),
    )
    saved = load_file(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in own.state_dict().items())


def test_amun_a_starts_from_the_step_before_by_examples_nearest_to_that(strict_plan, tmp_path, monkeypatch):
    started = []
    original = amun.unlearn

    def unlearn(network, *arguments, **keywords):
        started.append((network, keywords["adversarial"]))
        made = original(network, *arguments, **keywords)
        started[-1] += (made,)
        return made

    monkeypatch.setattr(amun, "unlearn", unlearn)
    gentle = dataclasses.replace(strict_plan, unlearn=dataclasses.replace(UNLEARN, learning_rate=1e-6))
    _, outcome = outcome_of(gentle, tmp_path, amun_steps=3)
    assert [step["started_from"] for step in outcome["steps"]] == ["base", "base", "previous step"]
    first, second, third = started
    assert first[0] is second[0]
    assert first[1] is second[1]
    assert third[0] is second[2]
    own = adversarial.nearest(second[2], *_forgotten(gentle), **dataclasses.asdict(ATTACK))
    assert torch.equal(third[1].inputs, own.inputs)
    assert [step["weight_scale"] for step in outcome["steps"]] == [1.0, 2.0, 1.0]
    assert outcome["withdraw"] is True
    assert outcome["verdict"] == "under_unlearned"


def _forgotten(plan):
    pixels = np.fromfile(plan.data.pixels, np.uint8).reshape(-1, 1, 8, 8)[plan.forget]
    labels = np.fromfile(plan.data.labels, np.int32)[plan.forget]
    return torch.from_numpy(pixels).float().div_(255), torch.from_numpy(labels).long()


def test_straight_to_retraining_tries_no_amun(strict_plan, tmp_path):
    plan = dataclasses.replace(strict_plan, compare_retrained=True)
    result, outcome = outcome_of(plan, tmp_path, straight_to_retraining=True)
    assert [step["method"] for step in outcome["steps"]] == ["retrain"]
    assert outcome["adversarial"] is outcome["retrained"] is None
    assert outcome["before"]["boundary"]["forget_median"] > 0
    assert not {"attack", "finetune"} & set(result.seconds)


def test_an_inconclusive_attempt_is_retrained_only_where_the_policy_says_so(unlearn_plan, tmp_path):
    first = unlearn_plan.forget[:3]
    few = dataclasses.replace(unlearn_plan, forget=first, requests=[first], compare_retrained=False)
    _, outcome = outcome_of(few, tmp_path / "kept", amun_steps=3, retrain=True)
    assert [step["method"] for step in outcome["steps"]] == ["amun"]
    _, outcome = outcome_of(few, tmp_path / "retrained", amun_steps=3, retrain_inconclusive=True)
    assert [step["method"] for step in outcome["steps"]] == ["amun", "retrain"]


def diverges(monkeypatch):
    def retrain(*arguments, **keywords):
        raise training.Diverged("the mean loss of epoch 1 is nan")

    monkeypatch.setattr(baselines, "retrain", retrain)


def test_where_retraining_diverges_the_last_attempt_is_kept_and_withdrawn(strict_plan, tmp_path, monkeypatch):
    kept, _ = outcome_of(strict_plan, tmp_path / "kept", retrain=False)
    diverges(monkeypatch)
    plan = dataclasses.replace(strict_plan, compare_retrained=True)
    result, outcome = outcome_of(plan, tmp_path / "out", retrain=True)
    assert outcome["withdraw"] is True
    assert [step["method"] for step in outcome["steps"]] == ["amun"]
    assert "diverged" in outcome["reasons"][0]
    assert outcome["retrained"] is outcome["provenance"] is None
    assert result.files == kept.files


def test_where_nothing_but_retraining_was_to_be_tried_its_divergence_fails_the_job(strict_plan, tmp_path, monkeypatch):
    diverges(monkeypatch)
    straight = dataclasses.replace(strict_plan.ladder, straight_to_retraining=True)
    assert failure(dataclasses.replace(strict_plan, ladder=straight), tmp_path).code == "diverged"


def test_each_step_has_seeds_of_its_own_and_the_same_plan_takes_the_same_ladder(strict_plan, tmp_path):
    outcomes = []
    for name in ("one", "two"):
        result, outcome = outcome_of(strict_plan, tmp_path / name, amun_steps=2, retrain=True)
        for step in outcome["steps"]:
            del step["seconds"]
        outcomes.append((result.files, outcome))
    assert outcomes[0] == outcomes[1]


# --- requests and utility ---------------------------------------------------------------------------------------------


def test_each_request_is_judged_at_its_part_of_the_level(unlearn_plan, tmp_path):
    forget = unlearn_plan.forget
    plan = dataclasses.replace(unlearn_plan, requests=[forget[:3], forget[3:]], compare_retrained=False)
    _, outcome = outcome_of(plan, tmp_path / "two")
    small, large = outcome["after"]["slices"]
    assert (small["forget"], large["forget"]) == (3, 37)
    assert [one["name"] for one in small["estimates"]] == ["membership"]
    z = {sample["index"]: sample["z"] for sample in outcome["after"]["audit"]["samples"]}
    for own, rows in ((small, forget[:3]), (large, forget[3:])):
        assert own["worst"] == max(rows, key=z.__getitem__)
    alone = dataclasses.replace(plan, requests=[forget], audit=dataclasses.replace(AUDIT, level=0.025))
    _, halved = outcome_of(alone, tmp_path / "alone")
    assert halved["after"]["slices"][0]["estimates"] == halved["after"]["audit"]["estimates"]


@pytest.mark.fault(18)
def test_accuracy_lost_on_controls_beyond_the_tolerance_fails_utility_and_only_that(unlearn_plan, tmp_path):
    plan = dataclasses.replace(unlearn_plan, compare_retrained=False)
    _, gentle = outcome_of(
        dataclasses.replace(plan, unlearn=dataclasses.replace(UNLEARN, learning_rate=1e-6)), tmp_path / "gentle"
    )
    assert gentle["utility"]["passed"]
    assert gentle["utility"]["low"] < gentle["utility"]["change"] < gentle["utility"]["high"]
    assert gentle["utility"]["change"] > -0.02
    rough = dataclasses.replace(plan, unlearn=dataclasses.replace(UNLEARN, form="adversarial", learning_rate=0.3))
    _, rough = outcome_of(rough, tmp_path / "rough")
    change = rough["after"]["utility"]["controls"] - rough["before"]["utility"]["controls"]
    assert rough["utility"]["change"] == pytest.approx(change)
    assert (rough["utility"]["passed"], rough["utility"]["tolerance"]) == (False, 0.05)
    assert change < -0.05


def test_who_kept_the_old_checkpoint_sees_whose_signal_fell(unlearned, unlearn_plan, tmp_path):
    # Retained images fall less than forgotten ones where much is taken from these alone.
    strong = dataclasses.replace(
        unlearn_plan, unlearn=dataclasses.replace(UNLEARN, weight_scale=20.0), compare_retrained=False
    )
    _, outcome = outcome_of(strong, tmp_path)
    assert outcome["after"]["changed"]["value"] > 0.55


# --- audits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audit_plan(unlearn_plan):
    names = ("data", "network", "base", "signals", "forget", "retain", "calibration", "audit_controls", "requests")
    return agreed.AuditPlan(
        **{name: getattr(unlearn_plan, name) for name in names}, attack=ATTACK, audit=AUDIT, seed=8, threads=1
    )


def test_an_audit_says_of_a_model_what_the_unlearn_job_said_of_it(audit_plan, unlearned, tmp_path):
    returncode, result, lines = run(audit_plan, tmp_path)
    assert (returncode, result.status, result.files) == (0, "succeeded", [])
    assert tuple(result.seconds) == agreed.AUDIT_PHASES
    assert lines[-1].progress == 1.0
    before = unlearned[1][1].outcome["before"]
    for name in ("audit", "slices", "boundary", "utility", "retained"):
        assert result.outcome[name] == before[name], name


def test_when_nothing_is_left_to_forget_an_audit_still_measures_what_it_can(audit_plan, tmp_path):
    result, _ = run_here(dataclasses.replace(audit_plan, forget=[], requests=[]), tmp_path)
    outcome = result.outcome
    assert outcome["audit"] is outcome["boundary"] is outcome["utility"]["forget"] is None
    assert outcome["slices"] == []
    assert outcome["retained"]["low"] < outcome["retained"]["value"] < outcome["retained"]["high"]
    assert outcome["forget"] == 0


def test_an_audit_without_any_training_image_has_utility_alone(audit_plan, tmp_path):
    result, _ = run_here(dataclasses.replace(audit_plan, forget=[], requests=[], retain=[]), tmp_path)
    assert result.outcome["retained"] is result.outcome["utility"]["retained"] is None
    assert result.outcome["utility"]["controls"] > 0


@pytest.mark.parametrize(
    "changes", [{"calibration": []}, {"audit_controls": []}, {"requests": [[1796]]}, {"forget": [-1], "requests": []}]
)
def test_an_audit_plan_that_cannot_be_done_is_refused(audit_plan, tmp_path, changes):
    assert failure(dataclasses.replace(audit_plan, **changes), tmp_path).code == "plan_invalid"


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder_source(tmp_path):
    """Two classes, six training images and two controls of each."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for split, count in (("train", 6), ("test", 2)):
            (tmp_path / "source" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "source" / split / name / f"{number}.png")
    return tmp_path / "source"


def folder_plan(source, **controls):
    return agreed.RegisterPlan(
        agreed.Source("folder", str(source)), agreed.Controls(**controls or {"folder": "test"}), 0
    )


def test_a_folder_with_a_control_split_is_registered_in_the_order_of_its_keys(folder_source, tmp_path):
    result, _ = run_here(folder_plan(folder_source), tmp_path / "out")
    assert result.outcome["shape"] == [3, 6, 5]
    assert result.outcome["classes"] == ["cat", "dog"]
    assert (result.outcome["train"], result.outcome["controls"]) == (12, 4)
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == sorted(line["key"] for line in lines)
    for line in lines:
        content = (folder_source / line["key"]).read_bytes()
        assert line["file_sha256"] == hashlib.sha256(content).hexdigest()
        assert line["split"] == ("control" if line["key"].startswith("test/") else "train")
        pixels = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
        assert line["sha256"] == hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()


def test_a_folder_without_splits_gives_a_share_of_controls(folder_source, tmp_path):
    result, _ = run_here(folder_plan(folder_source / "train", share=0.25), tmp_path / "out")
    assert (result.outcome["train"], result.outcome["controls"]) == (9, 3)


def _truncate(source):
    path = source / "train/cat/1.png"
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_truncate, "train/cat/1.png"),
        (lambda source: (source / "train/dog/notes.txt").write_text("hello"), "train/dog/notes.txt"),
        (lambda source: (source / "train/dog/x.png").symlink_to("/etc/passwd"), "train/dog/x.png"),
        (lambda source: Image.new("RGB", (9, 9)).save(source / "train/dog/9.png"), "train/dog/9.png"),
        (lambda source: shutil.copy(source / "train/cat/0.png", source / "test/dog/9.png"), "test/dog/9.png"),
        (lambda source: shutil.rmtree(source / "test"), "no control images"),
        (lambda source: shutil.rmtree(source / "train/dog"), "class dog"),
        (shutil.rmtree, "source"),
    ],
)
def test_a_folder_that_cannot_be_used_is_a_data_error_that_names_what(folder_source, tmp_path, spoil, named):
    spoil(folder_source)
    error = failure(folder_plan(folder_source), tmp_path / "out")
    assert error.code == "data_error"
    assert named in error.detail


def test_thousands_of_images_are_registered(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6000, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "source" / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:05d}.jpg")
    assert run(folder_plan(tmp_path / "source", share=0.1), tmp_path / "out")[1].status == "succeeded"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "certify"}', '{"kind": "audit"}', '{"kind": "register"}'])
def test_what_is_no_plan_is_refused(tmp_path, text):
    assert failure(text, tmp_path).code == "plan_invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"forget": [], "requests": []},
        {"requests": [[]]},
        {"requests": [[1796]]},
        {"ladder": dataclasses.replace(LADDER, amun_steps=0)},
        {"forget": [1797]},
        {"forget": [-1]},
        {"calibration": []},
        {"retain": []},
        {"network": agreed.NetworkSpec(name="alexnet", width=4)},
        {"unlearn": dataclasses.replace(UNLEARN, form="everything")},
        {"attack": dataclasses.replace(ATTACK, method="fgsm")},
    ],
)
def test_an_unlearn_plan_that_cannot_be_done_is_refused(unlearn_plan, tmp_path, changes):
    assert failure(dataclasses.replace(unlearn_plan, **changes), tmp_path).code == "plan_invalid"


def test_a_sample_both_forgotten_and_retained_is_refused(unlearn_plan, tmp_path):
    both = dataclasses.replace(unlearn_plan, retain=[*unlearn_plan.retain, unlearn_plan.forget[0]])
    assert failure(both, tmp_path).code == "plan_invalid"


@pytest.mark.parametrize("side", ["forget", "retain"])
@pytest.mark.parametrize("controls", ["calibration", "audit_controls"])
@pytest.mark.parametrize("kind", ["unlearn_plan", "audit_plan"])
def test_controls_are_disjoint_from_every_training_image_by_their_pixels(request, tmp_path, kind, side, controls):
    plan = request.getfixturevalue(kind)
    pixels = np.fromfile(plan.data.pixels, np.uint8).reshape(-1, 64)
    digests = np.fromfile(plan.data.digests, np.uint8).reshape(-1, 32)
    for array in (pixels, digests):
        array[getattr(plan, controls)[0]] = array[getattr(plan, side)[0]]
    pixels.tofile(tmp_path / "pixels")
    digests.tofile(tmp_path / "digests")
    changed = dataclasses.replace(plan.data, pixels=str(tmp_path / "pixels"), digests=str(tmp_path / "digests"))
    error = failure(dataclasses.replace(plan, data=changed), tmp_path / "out")
    assert error.code == "plan_invalid"
    assert "copy" in error.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"references": 3},
        {"train": []},
        {"controls": []},
        {"recipe": dataclasses.replace(RECIPE, schedule="cosine")},
        {"rehearsal": dataclasses.replace(REHEARSAL, sizes=[])},
    ],
)
def test_a_train_plan_that_cannot_be_done_is_refused(train_plan, tmp_path, changes):
    short = dataclasses.replace(RECIPE, epochs=1)
    plan = dataclasses.replace(dataclasses.replace(train_plan, recipe=short), **changes)
    assert failure(plan, tmp_path).code == "plan_invalid"


@pytest.mark.fault(21)
def test_a_pixel_changed_since_registration_is_found_in_live_rows_alone(unlearn_plan, tmp_path):
    pixels = np.fromfile(unlearn_plan.data.pixels, np.uint8).reshape(1797, 64)
    live = {*unlearn_plan.forget, *unlearn_plan.retain, *unlearn_plan.calibration, *unlearn_plan.audit_controls}
    other = next(row for row in range(1797) if row not in live)
    pixels[other] = 0
    pixels.tofile(tmp_path / "pixels")
    plan = dataclasses.replace(
        unlearn_plan,
        data=dataclasses.replace(unlearn_plan.data, pixels=str(tmp_path / "pixels")),
        compare_retrained=False,
    )
    assert run_here(plan, tmp_path / "erased")[0].status == "succeeded"
    pixels[unlearn_plan.retain[7], 30] ^= 1
    pixels.tofile(tmp_path / "pixels")
    error = failure(plan, tmp_path / "changed")
    assert error.code == "dataset_changed"
    assert f"row {unlearn_plan.retain[7]} " in error.detail


@pytest.mark.fault(21)
def test_a_shortened_array_is_a_changed_data_set(unlearn_plan, tmp_path):
    (tmp_path / "labels").write_bytes(Path(unlearn_plan.data.labels).read_bytes()[:-4])
    plan = dataclasses.replace(
        unlearn_plan, data=dataclasses.replace(unlearn_plan.data, labels=str(tmp_path / "labels"))
    )
    assert failure(plan, tmp_path / "out").code == "dataset_changed"


def _flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _with_nan(path):
    tensors = load_file(path)
    tensors["0.weight"][0] = torch.nan
    save_file(tensors, path)


def _with(change):
    def spoil(path):
        tensors = load_file(path)
        save_file(tensors | {"0.weight": change(tensors["0.weight"]).contiguous()}, path)

    return spoil


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("spoil", "known", "reason"),
    [
        (_flipped, False, "sha256"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), True, "safetensors"),
        (lambda path: torch.save({"0.weight": torch.zeros(1)}, path), True, "safetensors"),
        (_with_nan, True, "finite"),
        (lambda path: save_file({"weight": torch.zeros(1)}, path), True, "another network"),
        (_with(lambda tensor: tensor[:1]), True, "0.weight is torch.float32 (1, 1, 3, 3) instead of"),
        (_with(torch.Tensor.half), True, "0.weight is torch.float16"),
        (Path.unlink, False, "No such file"),
    ],
)
@pytest.mark.parametrize(("job", "part"), [("unlearn_plan", "base"), ("train_plan", "checkpoint")])
def test_a_spoilt_checkpoint_is_refused_before_use(
    request, unlearn_plan, tmp_path, monkeypatch, job, part, spoil, known, reason
):
    path = tmp_path / "base.safetensors"
    shutil.copy(unlearn_plan.base.path, path)
    spoil(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if known else unlearn_plan.base.sha256
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    file = agreed.CheckpointFile(str(path), sha256)
    error = failure(dataclasses.replace(request.getfixturevalue(job), **{part: file}), tmp_path / "out")
    assert error.code == "checkpoint_invalid"
    assert reason in error.detail


@pytest.mark.fault(18)
def test_a_loss_that_is_not_finite_is_reported_as_divergence(train_plan, tmp_path):
    plan = dataclasses.replace(train_plan, recipe=dataclasses.replace(RECIPE, learning_rate=1e30, schedule="constant"))
    assert failure(plan, tmp_path).code == "diverged"


@pytest.mark.fault(6)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_job_for_a_gpu_never_runs_on_the_cpu(train_plan, tmp_path, monkeypatch):
    monkeypatch.setenv("AMUN_DEVICE", "cuda")
    assert failure(train_plan, tmp_path).code == "no_gpu"


@pytest.mark.fault(11)
def test_a_full_disk_is_reported_and_nothing_half_written_stays(tmp_path):
    (tmp_path / ".pixels.u8.part").symlink_to("/dev/full")
    plan = agreed.RegisterPlan(agreed.Source("builtin", "digits"), agreed.Controls(share=0.5), seed=0)
    assert failure(plan, tmp_path).code == "disk_full"


@pytest.mark.fault(11)
def test_pixels_that_will_not_fit_are_refused_at_the_first_image(tmp_path, monkeypatch):
    free = 8 * 8 * 1797 - 1  # digits in one channel, less a byte
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    plan = agreed.RegisterPlan(agreed.Source("builtin", "digits"), agreed.Controls(share=0.5), seed=0)
    error = failure(plan, tmp_path)
    assert (error.code, error.detail) == (
        "disk_full",
        f"the pixels take {free + 1} bytes, and {free} are free: make room for 1 more",
    )


@pytest.mark.parametrize("code", ["plan_invalid", "data_error", "dataset_changed", "checkpoint_invalid", "diverged"])
def test_a_job_that_fails_exits_with_1_and_says_why(unlearn_plan, tmp_path, monkeypatch, code):
    plan = {
        "plan_invalid": "not a plan",
        "data_error": folder_plan(tmp_path / "missing"),
        "dataset_changed": dataclasses.replace(
            unlearn_plan, data=dataclasses.replace(unlearn_plan.data, digests=unlearn_plan.data.pixels)
        ),
        "checkpoint_invalid": dataclasses.replace(
            unlearn_plan, base=dataclasses.replace(unlearn_plan.base, sha256="0" * 64)
        ),
        "diverged": dataclasses.replace(unlearn_plan, unlearn=dataclasses.replace(UNLEARN, learning_rate=1e30)),
    }[code]
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # main sets it for the life of its process
    (tmp_path / "plan.json").write_text(plan if isinstance(plan, str) else agreed.dump(plan))
    returncode = pipeline.main([str(tmp_path / "plan.json"), str(tmp_path / "out")])
    result = agreed.load_result(tmp_path / "out" / "result.json")
    assert (returncode, result.status, result.error.code) == (1, "failed", code)
    assert result.error.detail


def test_its_process_ends_with_that_status(tmp_path):
    returncode, result, _ = run("not a plan", tmp_path)
    assert (returncode, result.error.code) == (1, "plan_invalid")


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(monkeypatch):
    """Sets how many images at a time the device's memory holds in training."""

    def holds(fits):
        def retrain(*arguments, batch_size, accumulate, **keywords):
            if batch_size / accumulate > fits:
                raise torch.OutOfMemoryError("out of memory")
            return original(*arguments, batch_size=batch_size, accumulate=accumulate, **keywords)

        monkeypatch.setattr(baselines, "retrain", retrain)

    original = baselines.retrain
    return holds


@pytest.mark.fault(5)
def test_out_of_memory_is_tried_once_more_with_half_the_batch_at_a_time(unlearn_plan, tmp_path, memory):
    memory(16)
    result, lines = run_here(unlearn_plan, tmp_path)
    assert (result.status, result.batches_halved) == ("succeeded", True)
    progress = [line.progress for line in lines]
    assert progress == sorted(progress)


@pytest.mark.fault(5)
def test_out_of_memory_with_half_the_batch_at_a_time_is_a_failure(unlearn_plan, tmp_path, memory):
    memory(8)
    assert failure(unlearn_plan, tmp_path).code == "oom"


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def long_job(train_plan, tmp_path):
    """A supervised process in the middle of a training that would take minutes, from a parent that ignores SIGTERM."""
    plan = dataclasses.replace(train_plan, recipe=dataclasses.replace(RECIPE, epochs=1000))
    (tmp_path / "plan.json").write_text(agreed.dump(plan))
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    process = subprocess.Popen(
        command(tmp_path, "--supervised"),
        cwd=ROOT,
        env={**os.environ, "AMUN_DEVICE": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGTERM, handler)
    while '"train"' not in process.stdout.readline():
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.mark.fault(3)
def test_a_supervised_process_ends_when_its_supervisor_does(long_job):
    long_job.stdin.close()
    assert long_job.wait(timeout=5) == 1


@pytest.mark.fault(22)
def test_sigterm_ends_the_process_promptly(long_job):
    long_job.send_signal(signal.SIGTERM)
    assert long_job.wait(timeout=5) == -signal.SIGTERM


def test_the_device_is_one_of_three(monkeypatch):
    monkeypatch.setenv("AMUN_DEVICE", "tpu")
    with pytest.raises(Exception, match="tpu"):
        device.choose_device()


def test_as_many_references_train_together_as_leave_each_its_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for threads, together in ((1, 8), (4, 2), (8, 1), (16, 1)):
        monkeypatch.setattr(device.torch, "get_num_threads", lambda threads=threads: threads)
        assert device.references_together(device.torch.device("cpu")) == together


def test_on_a_gpu_as_many_train_together_as_fit_beside_the_first(monkeypatch):
    figures = {"mem_get_info": (10, 80), "memory_reserved": 30, "memory_allocated": 10}
    for name, value in figures.items():
        monkeypatch.setattr(device.torch.cuda, name, lambda of, value=value: value)
    for peak, together in ((5, 4), (12, 2), (25, 1), (100, 1)):
        monkeypatch.setattr(device.torch.cuda, "max_memory_allocated", lambda of, peak=peak: peak)
        assert device.references_together(device.torch.device("cuda")) == together
