"""The parts of a training run: recipe, samples of a step, losses, joined calls, teachers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onnxopt.core.io import load
from onnxopt.core.query import TensorSpec
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.data.sources import open_dataset
from onnxopt.errors import DataError, UsageError
from onnxopt.passes.base import Context
from onnxopt.recover.augment import image_axes, varied
from onnxopt.recover.heads import Head, choose_head, combine
from onnxopt.recover.hook import recover_by_distillation
from onnxopt.recover.losses import head_loss, label_loss
from onnxopt.recover.options import SCHEDULES, Training
from onnxopt.recover.samples import chosen, find_joining, group, split_three
from tests.cli.sample_models import MLP, mlp, mlp_data, mlp_weights, normal, parsed, write


def test_rates_rise_in_the_warm_up_and_never_pass_the_peak():
    for schedule in SCHEDULES:
        recipe = Training(schedule=schedule, steps=100, warmup=5)
        rates = [recipe.rate(step, 0.1) for step in range(100)]
        assert rates[:5] == sorted(rates[:5]) and max(rates) == pytest.approx(0.1)
        assert rates[5:] == sorted(rates[5:], reverse=True)
    assert Training(schedule="cosine", steps=100).rate(99, 0.1) < 1e-4


def test_each_epoch_takes_every_sample_once_in_another_order():
    steps = [chosen(10, step, 4, seed=3) for step in range(5)]
    flat = [i for step in steps for i in step]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10)) and flat[:10] != flat[10:]
    assert chosen(10, 3, 4, seed=3) == steps[3] and chosen(10, 3, 4, seed=4) != steps[3]


def test_the_three_parts_are_disjoint_and_complete():
    data = Dataset("d", lambda i: Sample({"x": np.zeros(1)}), tuple(range(50)), "0", False)
    parts = split_three(data, None, seed=0)
    orders = [set(p.order) for p in (parts.train, parts.watched, parts.judged)]
    assert set.union(*orders) == set(range(50)) and sum(map(len, orders)) == 50
    with pytest.raises(DataError, match="too few"):
        split_three(data.take([1, 2]), None, seed=0)


def test_losses_fit_what_the_answers_look_like():
    logits, unit = normal(8, 5), normal(8, 5)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kinds = [logits, shares, unit, shares[:, :1], logits[:, :1], normal(2, 3, 4)]
    found = [choose_head("y", [answers], "auto") for answers in kinds]
    assert [h.kind for h in found if h] == ["kl", "kl", "cosine", "bce", "mse", "mse"]
    assert found[1] is not None and found[1].probabilities
    assert choose_head("y", [np.zeros((2, 3), np.int64)], "auto") is None
    with pytest.raises(UsageError, match="one column"):
        choose_head("y", [logits[:, :1]], "kl")


@pytest.mark.parametrize("kind", ["kl", "bce", "mse", "cosine"])
def test_losses_are_zero_at_the_answer_and_larger_elsewhere(kind):
    answer = torch.sigmoid(torch.from_numpy(normal(6, 4)))
    head = Head("y", kind)
    assert float(head_loss(head, answer, answer, 2.0)) == pytest.approx(0, abs=1e-5)
    assert float(head_loss(head, 1 - answer, answer, 2.0)) > 1e-3


def test_the_temperature_keeps_the_size_of_gradients():
    s, t = torch.from_numpy(normal(64, 10) * 0.1).requires_grad_(), torch.from_numpy(normal(64, 10, seed=1) * 0.1)
    sizes = []
    for temperature in (1.0, 4.0):
        (g,) = torch.autograd.grad(head_loss(Head("y", "kl"), s, t, temperature), s)
        sizes.append(float(g.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_padding_among_the_labels_counts_for_nothing():
    scores, labels = torch.from_numpy(normal(2, 3, 4)), torch.tensor([[1, 2, -1], [0, -1, -1]])
    some = label_loss(Head("y", "kl"), scores, labels)
    moved = scores.clone()
    moved[0, 2] = moved[1, 1:] = 9.0
    assert float(some) == pytest.approx(float(label_loss(Head("y", "kl"), moved, labels)))


def test_the_mean_of_teachers_is_that_of_their_distributions():
    a, b = normal(3, 4), normal(3, 4, seed=1)
    both = combine(Head("y", "kl"), [a, b], 2.0)
    soft = [np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (a, b, both)]
    np.testing.assert_allclose(soft[2], (soft[0] + soft[1]) / 2, rtol=1e-5)


def test_samples_are_joined_only_where_the_model_says_the_same_of_them_together():
    samples = [Sample({"x": normal(1, 3, seed=i)}) for i in range(3)]
    assert find_joining(lambda f: {"y": f["x"] * 2, "s": f["x"].T}, {"x": 0}, samples).outputs == {"y": 0, "s": 1}
    assert find_joining(lambda f: {"y": f["x"] - f["x"].mean()}, {"x": 0}, samples) is None
    joining = find_joining(lambda f: {"y": f["x"]}, {"x": 0}, samples)
    joined = group(samples, [{"y": s.feeds["x"]} for s in samples], joining)
    assert len(joined) == 1 and joined[0].feeds["x"].shape == (3, 3) and joined[0].share == 1
    assert [c.share for c in group(samples, [{}] * 3, None)] == pytest.approx([1 / 3] * 3)


def test_samples_of_other_lengths_run_apart():
    samples = [Sample({"x": normal(1, n, seed=n)}) for n in (3, 4, 3, 3)]
    joining = find_joining(lambda f: {"y": f["x"]}, {"x": 0}, samples)
    calls = group(samples, [{"y": s.feeds["x"]} for s in samples], joining)
    assert [(c.feeds["x"].shape, c.share) for c in calls] == [((3, 3), 0.75), ((1, 4), 0.25)]


def test_images_are_varied_the_same_way_for_the_same_generator():
    axes = image_axes((TensorSpec("x", np.dtype(np.float32), (1, 3, 16, 16)),), ["shift"])
    assert axes == {"x": (2, 3)}
    samples = [Sample({"x": normal(1, 3, 16, 16, seed=i)}) for i in range(4)]
    first, second = (varied(samples, axes, ("shift", "flip", "crop", "mixup"), np.random.default_rng(5)) for _ in "ab")
    for a, b, old in zip(first, second, samples, strict=True):
        np.testing.assert_array_equal(a.feeds["x"], b.feeds["x"])
        assert a.feeds["x"].shape == old.feeds["x"].shape and a.feeds["x"].dtype == np.float32
        assert not np.array_equal(a.feeds["x"], old.feeds["x"])
    with pytest.raises(UsageError, match="image"):
        image_axes((TensorSpec("x", np.dtype(np.float32), (1, 7)),), ["flip"])


def test_the_hook_for_other_commands_brings_the_student_nearer_to_its_teacher(tmp_path: Path) -> None:
    teacher = write(mlp(), tmp_path / "t.onnx")
    weights = {n: a + normal(*a.shape, seed=9) for n, a in mlp_weights().items()}
    text = parsed(MLP, weights)
    student = load(write(text, tmp_path / "s.onnx"))
    data = open_dataset(str(mlp_data(tmp_path / "d.npz")), (TensorSpec("x", np.dtype(np.float32), ("N", 16)),))
    (tmp_path / "work").mkdir()
    before = {n: v.const_value.numpy().copy() for n, v in student.graph.initializers.items()}
    found = recover_by_distillation(student, teacher, Context(tmp_path / "work", data), Training(steps=40, batch=16))
    assert found.model is not student and found.changed and found.steps == 40 and found.recipe.teachers
    for name, value in student.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), before[name])
        assert not np.array_equal(found.model.graph.initializers[name].const_value.numpy(), before[name])
