"""Hooks see and replace the activation, whatever the module takes and returns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saesteer.models import HookPoint, install, installed, remove


class TensorBlock(nn.Module):
    def forward(self, hidden_states):
        return 2.0 * hidden_states


class TupleBlock(nn.Module):
    def forward(self, hidden_states):
        return 2.0 * hidden_states, "weights", None


def as_tensor(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.fixture(params=[TensorBlock, TupleBlock])
def block(request):
    return request.param()


@pytest.fixture(params=["positional", "keyword"])
def call(request):
    def run(module, x):
        return module(x) if request.param == "positional" else module(hidden_states=x)

    return run


X = torch.arange(24.0).reshape(2, 3, 4)


def test_an_output_edit_reaches_every_row(block, call):
    handle = install(HookPoint(block, "out"), lambda resid: resid + 1.0)
    torch.testing.assert_close(as_tensor(call(block, X)), 2 * X + 1, rtol=0, atol=0)
    handle.remove()
    torch.testing.assert_close(as_tensor(call(block, X)), 2 * X, rtol=0, atol=0)


def test_an_input_edit_reaches_every_row(block, call):
    install(HookPoint(block, "in"), lambda resid: resid + 1.0)
    torch.testing.assert_close(as_tensor(call(block, X)), 2 * (X + 1), rtol=0, atol=0)


@pytest.mark.parametrize("side", ["in", "out"])
def test_none_leaves_the_activation_alone(block, call, side):
    seen = []
    install(HookPoint(block, side), seen.append)
    output = call(block, X)
    assert torch.equal(as_tensor(output), 2 * X)
    assert torch.equal(seen[0], X if side == "in" else 2 * X)


def test_the_rest_of_a_tuple_stays():
    block = TupleBlock()
    install(HookPoint(block, "out"), lambda resid: resid * 0)
    assert block(X)[1:] == ("weights", None)


@pytest.mark.parametrize("side", ["in", "out"])
def test_columns_narrow_what_is_seen_and_replaced(block, call, side):
    seen = []

    def edit(part):
        seen.append(part.clone())
        return torch.zeros_like(part)

    given = X.clone()
    install(HookPoint(block, side, (1, 3)), edit)
    output = as_tensor(call(block, given))
    expected = 2 * X
    expected[..., 1:3] = 0
    assert torch.equal(output, expected)
    assert torch.equal(seen[0], (X if side == "in" else 2 * X)[..., 1:3])
    assert torch.equal(given, X), "the caller's tensor was written to"


def test_prepended_hooks_run_first():
    block, order = TensorBlock(), []
    install(HookPoint(block, "out"), lambda _: order.append("second"))
    install(HookPoint(block, "out"), lambda _: order.append("first"), prepend=True)
    block(X)
    assert order == ["first", "second"]


def test_remove_takes_out_its_own_hooks_only():
    block, calls = TensorBlock(), []
    point = HookPoint(block, "out")
    mine = [install(point, lambda _: calls.append("mine")) for _ in range(2)]
    install(point, lambda _: calls.append("other"))
    remove(mine)
    block(X)
    assert calls == ["other"]


def test_installed_hooks_leave_with_the_block_and_by_an_exception():
    module = TensorBlock()
    point = HookPoint(module, "out")

    def hooks():
        yield point, lambda resid: resid + 1.0
        raise RuntimeError("no second point")

    with installed([(point, lambda resid: resid + 1.0)]):
        assert torch.equal(module(X), 2.0 * X + 1.0)
    assert torch.equal(module(X), 2.0 * X)
    with pytest.raises(RuntimeError, match="no second point"), installed(hooks()):
        pass
    assert torch.equal(module(X), 2.0 * X)
