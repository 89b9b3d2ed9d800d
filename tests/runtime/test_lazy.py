"""A lazy tensor is to any operator what the plain tensor is, and to whoever holds it the same object afterwards."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

import drystone
from agreement import relative_error
from drystone import native
from drystone.runtime.lazy import LazyTensor, call, make_lazy, materialise
from drystone.runtime.structures import Table

pytestmark = pytest.mark.skipif(native.isa() == "none", reason="no tensor is lazy below AVX2")

SAMPLES = 1  # of each operator
# They show what lies behind the shape, or where; no two tensors agree on that.
UNCOMPARABLE = {"empty_like", "new_empty", "new_empty_strided", "empty_permuted", "rand_like", "randn_like", "randint_like"}


@pytest.fixture(scope="module")
def table() -> Table:
    """Tables keep tensors in the format that suits the instruction set; the model is only there to have one made."""
    fast = drystone.optimize(nn.Conv2d(16, 16, 1).eval(), torch.zeros(1, 16, 4, 4), capture="eager", tuning="estimate")
    return Table(fast._maker)


@pytest.fixture(autouse=True)
def inference(table: Table) -> Iterator[None]:
    with torch.no_grad():
        yield


def lazy(table: Table, x: torch.Tensor) -> LazyTensor:
    """``x`` in the table's format where that is one for its rank, else plain memory that is lazy all the same."""
    kind = (tuple(x.shape), x.dtype)
    plain = table.memory(kind, "plain")
    if x.dim() not in (3, 4, 5):
        return make_lazy(table, plain, (x.clone(memory_format=torch.contiguous_format),))
    memory, _ = table.run(plain, [x.contiguous()], table.format)
    return make_lazy(table, table.memory(kind, table.format), (memory,))


def pending(table: Table, x: torch.Tensor) -> torch.Tensor:
    """``x`` as a result that is not computed yet."""
    return -lazy(table, -x)


def check(got: Any, want: Any, exact: bool) -> None:
    got_leaves, want_leaves = pytree.tree_leaves(got), pytree.tree_leaves(want)
    assert len(got_leaves) == len(want_leaves)
    for a, b in zip(got_leaves, want_leaves, strict=True):
        if not isinstance(b, torch.Tensor):
            assert a == b or (a != a and b != b) or (not exact and a == pytest.approx(b, rel=1e-5))
            continue
        assert isinstance(a, torch.Tensor)
        assert (a.shape, a.dtype, a.layout, a.device) == (b.shape, b.dtype, b.layout, b.device)
        if b.layout is not torch.strided:
            a, b = a.to_dense(), b.to_dense()
        assert a.stride() == b.stride()
        a = materialise(a, "the test") if type(a) is LazyTensor else a
        if b.dtype is torch.complex32:
            a, b = a.to(torch.complex64), b.to(torch.complex64)
        if exact or not b.is_floating_point():
            assert torch.equal(a.isnan(), b.isnan()) if b.is_floating_point() or b.is_complex() else True
            assert torch.equal(a.nan_to_num(0), b.nan_to_num(0)) if b.is_floating_point() else torch.equal(a, b)
        else:
            assert torch.equal(a.isfinite(), b.isfinite())
            assert relative_error(a[b.isfinite()], b[b.isfinite()]) < 1e-5


def deferred(table: Table) -> int:
    return sum(operation is not None for operation in table.operations.values())


def run(op: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Exception | None]:
    torch.manual_seed(0)
    try:
        return op(*args, **kwargs), None
    except Exception as error:
        return None, error


OPS = list({op.name: op for op in op_db if torch.float32 in op.dtypes and op.name not in UNCOMPARABLE}.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_operator_takes_lazy_tensors(table: Table, op: Any) -> None:
    torch.manual_seed(0)
    samples = (s for s in op.sample_inputs("cpu", torch.float32) if isinstance(s.input, torch.Tensor) and s.input.numel())
    floats = (s for s in samples if s.input.dtype is torch.float32 and s.input.layout is torch.strided)
    for sample, _ in zip(floats, range(SAMPLES), strict=False):
        for make in (lazy, pending):
            x = sample.input.contiguous()
            want, error = run(op.op, x.clone(), *copy.deepcopy(sample.args), **copy.deepcopy(sample.kwargs))
            before = deferred(table)
            given = make(table, x)
            exact = make is lazy
            got, ours = run(op.op, given, *copy.deepcopy(sample.args), **copy.deepcopy(sample.kwargs))
            assert (ours is None) == (error is None), f"{op.name} raises {ours!r}, on the plain tensor {error!r}"
            if error is None and "dropout" not in op.name and "rand" not in op.name:
                check(got, want, exact and deferred(table) == before and not _is_lazy(got))


def _is_lazy(result: Any) -> bool:
    return any(type(leaf) is LazyTensor for leaf in pytree.tree_leaves(result))


IN_PLACE: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "add_": lambda x, y: x.add_(y),
    "+=": lambda x, y: x.__iadd__(y),
    "*= number": lambda x, y: x.__imul__(2.5),
    "relu_": lambda x, y: x.relu_(),
    "relu(inplace)": lambda x, y: nn.functional.relu(x, inplace=True),
    "torch.relu_": lambda x, y: torch.relu_(x),
    "clamp_": lambda x, y: x.clamp_(-0.1, 0.2),
    "copy_": lambda x, y: x.copy_(y),
    "zero_": lambda x, y: x.zero_(),
    "index": lambda x, y: x.__setitem__((0, slice(1, 3)), 7.0),
    "slice of it": lambda x, y: x[:, 2:4].mul_(3),
    "view of it": lambda x, y: x.view(-1).add_(1),
    "out": lambda x, y: torch.add(y, y, out=x),
    "fill_diagonal": lambda x, y: x.flatten(1).fill_(2),
}


@pytest.mark.parametrize("make", [lazy, pending])
@pytest.mark.parametrize("name", IN_PLACE)
def test_changes_in_place_are_seen_through_every_name(table: Table, name: str, make: Any) -> None:
    plain, other = torch.randn(2, 20, 5, 5), torch.randn(2, 20, 5, 5)
    x = make(table, plain)
    alias = x
    IN_PLACE[name](plain, other)
    IN_PLACE[name](x, other)
    assert alias is x
    assert relative_error(alias + 0, plain) < 1e-6
    assert torch.equal(materialise(x, "test") if type(x) is LazyTensor else x, x + 0)


def test_a_value_that_was_read_before_a_change_stays_as_it_was(table: Table) -> None:
    plain = torch.randn(1, 16, 4, 4)
    x = lazy(table, plain)
    before = x * 2
    x.add_(1)
    view = x.view(-1)
    view.zero_()
    assert relative_error(before + 0, plain * 2) < 1e-6
    assert not x.any()


def test_memory_is_not_shared_with_what_is_still_to_be_computed(table: Table) -> None:
    """Of rank 2 the memory is plain already, but handing it out would let others change it."""
    plain = torch.randn(4, 6)
    x = lazy(table, plain)
    later = torch.sigmoid(x)
    x.view(-1).zero_()
    assert relative_error(later + 0, plain.sigmoid()) < 1e-5


@pytest.mark.parametrize("shape", [(4, 6), (2, 20, 5, 5)])
@pytest.mark.parametrize("changed", [0, 1])
def test_a_copy_stays_as_it_is_when_the_other_changes(table: Table, shape: tuple[int, ...], changed: int) -> None:
    plain = torch.randn(shape)
    x = lazy(table, plain)
    both = [x, x.clone()]
    both[changed].view(-1).zero_()
    assert torch.equal(both[1 - changed].view(-1), plain.view(-1))


def test_numbers_that_go_on_changing_are_left_to_torch(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drystone.runtime.structures.MAX_WAYS", 3)
    fresh = Table(table.maker)
    plain = torch.randn(2, 20, 5, 5)
    for step in range(6):
        check(lazy(fresh, plain) * (step + 0.5), plain * (step + 0.5), exact=False)
    assert len(fresh.operations) == 3


FACTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "shape": lambda x: (x.shape, x.size(), x.size(1), x.dim(), x.ndim, x.numel(), len(x)),
    "stride": lambda x: (x.stride(), x.stride(0), x.is_contiguous(), x.is_contiguous(memory_format=torch.channels_last)),
    "dtype": lambda x: (x.dtype, x.device, x.layout, x.is_cpu, x.is_floating_point(), x.element_size(), x.itemsize, x.nbytes),
    "gradient": lambda x: (x.requires_grad, x.grad_fn, x.grad, x.is_leaf),
    "isinstance": lambda x: (isinstance(x, torch.Tensor), torch.is_tensor(x), isinstance(x, nn.Parameter)),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_cost_no_reorder(table: Table, name: str) -> None:
    plain = torch.randn(2, 20, 5, 5)
    x = lazy(table, plain)
    assert FACTS[name](x) == FACTS[name](plain)
    assert type(x) is LazyTensor


LOOKS: dict[str, Callable[[torch.Tensor], Any]] = {
    "repr": repr,
    "format": lambda x: f"{x[0, 0, 0, 0]:.3f}",
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy().tobytes(),
    "asarray": lambda x: np.asarray(x).tobytes(),
    "ufunc": lambda x: np.abs(x).tobytes() if isinstance(np.abs(x), np.ndarray) else np.abs(x).numpy().tobytes(),
    "dlpack": lambda x: torch.from_dlpack(x).tolist(),
    "item": lambda x: x.flatten()[3].item(),
    "bool": lambda x: bool(x.sum() > 0),
    "index": lambda x: (x[0], x[..., 1:3], x[:, [1, 2]], x[x > 0]),
    "views": lambda x: (x.view(2, -1), x.flatten(1), x.permute(0, 2, 3, 1), x.transpose(1, 2), x.chunk(2, 1), x.unfold(2, 2, 1)),
    "to": lambda x: (x.to(torch.float64), x.double(), x.bfloat16(), x.to("meta").shape, x.to(memory_format=torch.channels_last)),
    "detach": lambda x: x.detach().clone(),
    "iterate": list,
    "contains": lambda x: 3.0 in x,
    "unpack": lambda x: [*x],
    "new": lambda x: (torch.tensor(x), torch.as_tensor(x), torch.Tensor(x)),
    "storage": lambda x: (x.untyped_storage().nbytes(), x.storage_offset()),
    "parameter": lambda x: nn.Parameter(x, requires_grad=False).data,
    "data": lambda x: x.data.sum(),
    "vmap": lambda x: torch.vmap(lambda row: row.sum())(x),
    "max": lambda x: x.max(dim=1),
    "compare": lambda x: (x == x, x.equal(x), torch.allclose(x, x)),
    "assign": lambda x: torch.zeros(2, 20, 5, 5).copy_(x),
    "set item": lambda x: _filled(x),
    "einsum": lambda x: torch.einsum("nchw,nc->nhw", x, torch.ones(2, 20)),
    "stack": lambda x: torch.stack([x, x]),
    "list of it": lambda x: torch.cat([x[:1], x[1:]]),
    "script": lambda x: torch.jit.script(_scripted)(x),
    "lstm": lambda x: nn.LSTM(5, 3)(x[0])[0].shape,
}


def _filled(x: torch.Tensor) -> torch.Tensor:
    target = torch.zeros(3, 2, 20, 5, 5)
    target[1] = x
    return target


def _scripted(x: torch.Tensor) -> torch.Tensor:
    return x.view(-1) * 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [lazy, pending])
@pytest.mark.parametrize("name", LOOKS)
def test_who_looks_finds_the_plain_tensor(table: Table, name: str, make: Any) -> None:
    plain = torch.randn(2, 20, 5, 5)
    got, want = LOOKS[name](make(table, plain)), LOOKS[name](plain)
    if isinstance(want, (str, bytes)):
        assert got == want
    else:
        check(got, want, exact=True)


def test_it_becomes_an_ordinary_tensor(table: Table) -> None:
    x = lazy(table, torch.randn(2, 20, 5, 5))
    pointer = x.data_ptr()
    assert type(x) is torch.Tensor
    assert pointer == x.data_ptr() == x.view(-1).data_ptr() != 0
    assert not vars(x)


@pytest.mark.parametrize(
    "round_trip",
    [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: _saved(x)],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
def test_copies_are_ordinary_tensors(table: Table, round_trip: Callable[[Any], Any]) -> None:
    plain = torch.randn(2, 20, 5, 5)
    made = round_trip(lazy(table, plain))
    assert type(made) is torch.Tensor
    assert torch.equal(made, plain)


def _saved(x: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    torch.save({"x": x}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)["x"]


def test_weak_references_do_no_harm(table: Table) -> None:
    """What is referred to weakly can't become another tensor; it answers through one."""
    import weakref

    plain = torch.randn(2, 20, 5, 5)
    x = lazy(table, plain)
    reference = weakref.ref(x)
    assert torch.equal(x.flatten(), plain.flatten())
    x[0] = 1
    x.mul_(2)
    plain[0] = 1
    assert torch.equal(x.view(-1), 2 * plain.view(-1))
    assert torch.equal(x + 1, 2 * plain + 1)
    assert reference() is x


def test_reorders_are_counted_by_who_asks(table: Table) -> None:
    call.tally.asked.clear()
    x = lazy(table, torch.randn(2, 20, 5, 5))
    x.relu().flatten()
    x.logcumsumexp(1)
    x.logcumsumexp(2)
    assert call.tally.asked == {"flatten": 1, "logcumsumexp": 1}


def test_equal_numbers_of_other_types_are_other_arguments(table: Table) -> None:
    x = torch.randn(2, 16, 4, 4)
    for number in (0.0, -0.0, 1, True, 1.0):
        assert torch.equal((lazy(table, x) * number + 0).signbit(), (x * number + 0).signbit())
    check(lazy(table, x).mean(1, True), x.mean(1, True), exact=False)
    check(lazy(table, x).mean((1,), keepdim=False), x.mean((1,), keepdim=False), exact=False)
