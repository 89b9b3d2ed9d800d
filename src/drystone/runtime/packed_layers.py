"""What ``optimize`` gives back for ``capture="eager"``: the model runs eagerly, its layers packed, their results lazy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from drystone.errors import WeightsReplacedError
from drystone.runtime.explain_packed_layers import PackedLayersExplanation
from drystone.runtime.lazy import LazyTensor, Tally, apply_to_one, call, lazy_input, materialise
from drystone.runtime.programs import ProgramTable
from drystone.runtime.proxy import ModuleProxy, checked_tensors, threads_in_force
from drystone.runtime.structures import Maker, Table
from drystone.runtime.traced_calls import is_traced
from drystone.runtime.weights import Weights


class PackedForward:
    """Takes the place of a layer's ``forward``: its operator on packed weights where that can be, else the layer itself."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.kind = name, type(module).__name__
        self.abandoned = ""  # why it runs eagerly from now on

    def around(self, own: Callable[..., Any]) -> Callable[..., Any]:
        module: nn.Module = own.__self__  # type: ignore[attr-defined]

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if len(args) == 1 and not kwargs and not self.abandoned and not module.training:
                result = apply_to_one(self, own, args[0])
                if result is not None:
                    return result
            return own(*args, **kwargs)

        return forward

    def abandon(self, name: str) -> None:
        """Programs know the attributes of their module as they were."""
        self.abandoned = f"the model has set its {name!r}"


class PackedLayersModule(ModuleProxy):
    """The model, run eagerly with packed layers. Inputs, outputs and attributes are the model's.

    Calls may come from several threads, if the model's may. Results carry no gradient. Where the model's weights change after it
    was prepared, calls raise ``WeightsChangedError`` until ``refresh()``. While other tensors or submodules stand in their place,
    calls are of the model as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        tree: Callable[[], nn.Module],
        maker: Maker,
        changes_inputs: bool,
        weights: Weights,
        explain: Callable[[PackedLayersModule], PackedLayersExplanation],
    ) -> None:
        """``tree``: gives a copy of the model with packed layers. ``changes_inputs``: it does, or gives back their memory."""
        super().__init__(model)
        self._make_tree = tree
        self.renew()
        self.eagerly = False  # eager was faster
        self.keep_aside(_last=Tally())
        self._maker, self._changes_inputs, self._weights, self._explain = maker, changes_inputs, weights, explain
        self._tables: ProgramTable[Any, Table] = ProgramTable(maker.lock)

    def renew(self) -> None:
        """Begin with a copy of the model as it is now. Programs are kept."""
        self.keep_aside(_tree=self._make_tree())

    def refresh(self) -> None:
        """Take over the model's weights as they are now. Layers are packed again when they are called."""
        threads_in_force()
        with self._tables.making:
            self._tables.clear()
            self._maker.renew()
            self._weights.take(self._weights.named)

    def explain(self) -> PackedLayersExplanation:
        """Which layers run packed, in which format, which eagerly and why; and the reorders of the last call."""
        return self._explain(self)

    @property
    def tables(self) -> list[Table]:
        return [table for _, table in self._tables.items()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if is_traced():
            return self.call_original(args, kwargs)
        tensors = checked_tensors(args, kwargs)
        try:
            self._weights.check()
        except WeightsReplacedError as error:
            return self.call_as_it_is(args, kwargs, error)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            if self.eagerly:
                return self._model(*args, **kwargs)
            return self._run(self._table(tensors), args, kwargs)

    def _run(self, table: Table, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = call.table, call.tally
        call.table, call.tally = table, Tally()
        try:
            if not self._changes_inputs:
                args, kwargs = pytree.tree_map_only(torch.Tensor, lambda x: lazy_input(table, x), (args, kwargs))
            return _materialised(self._tree(*args, **kwargs))
        finally:
            self.keep_aside(_last=call.tally)
            call.table, call.tally = before

    def _table(self, tensors: list[torch.Tensor]) -> Table:
        """The programs for inputs of these shapes."""
        key = (threads_in_force(), *[(x.shape, x.dtype) for x in tensors])
        return self._tables.find(key, lambda: Table(self._maker))


def _materialised(result: Any) -> Any:
    """``result`` of a model with a plain tensor for each lazy one, also inside of objects that pytree does not know."""
    if isinstance(result, torch.Tensor):
        return materialise(result, "the model's result") if type(result) is LazyTensor else result
    left: list[LazyTensor] = []
    _materialise_inside(result, set(), left)
    if not left:
        return result
    return pytree.tree_map(lambda leaf: leaf._plain if type(leaf) is LazyTensor else leaf, result)


def _materialise_inside(item: Any, seen: set[int], left: list[LazyTensor]) -> None:
    if id(item) in seen:
        return
    seen.add(id(item))
    if type(item) is LazyTensor:
        if materialise(item, "the model's result") is not item:
            left.append(item)
    elif isinstance(item, dict):
        for entry in item.values():
            _materialise_inside(entry, seen, left)
    elif isinstance(item, (list, tuple, set)):
        for entry in item:
            _materialise_inside(entry, seen, left)
    if hasattr(item, "__dict__") and not isinstance(item, (type, torch.Tensor, nn.Module)):
        _materialise_inside(vars(item), seen, left)
