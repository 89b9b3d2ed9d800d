"""From a graph and a choice for each node to a native program: places in memory, reorders, steps.

Four things cost nothing here and are decided on the way:
* a reorder between formats that mean the same bytes, and a view, are other names of the same memory;
* slices, permutes and reshapes before a kernel that takes any strides are other strides over the same memory;
* the parts of a ``cat`` are written where the whole will lie, if their producers can;
* a residual that nobody reads afterwards is added where it lies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from drystone import native
from drystone.graph.graph import Graph, Node, Value
from drystone.graph.ops import Cat
from drystone.plan.arena import Lifetime, plan_arena
from drystone.plan.assembled import Assembled, Buffer, Ends, Place, StepRecord
from drystone.plan.formats import PLAIN, block_of, dense, densely, same_memory, seen_as
from drystone.plan.guards import LIMIT, Watch, watch
from drystone.plan.implementations import ATEN, Option
from drystone.plan.implementations.base import Context, Created, Implementation, Layout, Operand, WeightStore
from drystone.plan.implementations.movement import Movement, copy_step

ALIGNMENT = 64


# Asked when a node's option turns out impossible: gives the next one to try.
Fallback = Callable[[Node, Option, str], Option]


def assemble(
    graph: Graph, choice: dict[Node, Option], weights: WeightStore, fallback: Fallback, ends: Ends | None = None
) -> Assembled:
    """The program of ``graph`` under ``choice``. ``fallback`` is asked for another option where a step can't be made."""
    return _Assembler(graph, dict(choice), weights, fallback, ends or Ends()).run()


class _Assembler:
    def __init__(self, graph: Graph, choice: dict[Node, Option], weights: WeightStore, fallback: Fallback, ends: Ends) -> None:
        self.graph, self.choice, self.weights, self.fallback, self.ends = graph, choice, weights, fallback, ends
        self.places: dict[tuple[int, str], Place] = {}
        self.home: dict[int, str] = {}  # value → the format in which its producer left it
        self.buffers: list[Buffer] = []
        self.records: list[StepRecord] = []
        self.lies: list[tuple[StepRecord | None, Value, Place]] = []
        self.steps: list[native.Step | None] = []  # one a record, None for ATen's
        self.frail: list[Node] = []  # nodes whose steps have an exact run
        self.slot_of: dict[tuple[int, int], int] = {}
        self.slots: list[tuple[Buffer, int]] = []
        self.readers = graph.consumers()
        self.last_reader: dict[int, int] = {}
        for position, node in enumerate(graph):
            for value in node.inputs:
                self.last_reader[value.id] = position
        for value in graph.outputs:
            self.last_reader[value.id] = len(graph.nodes)
        self.output_index = {value.id: i for i, value in reversed(list(enumerate(graph.outputs)))}
        self.parents: dict[int, tuple[Value, int]] = {}  # part of a cat → the whole, and where in it (index along dim)
        self.wholes: dict[int, Place] = {}  # of each cat
        self.roots: dict[int, Buffer] = {}
        self.strided: dict[int, bool] = {}  # view → whether all that read it, it or views of it, take it with strides
        self.constants: dict[int, Place] = {}

    # -- memory ----------------------------------------------------------------------------------------------------------

    def _buffer(self, kind: str, size: int, **more: object) -> Buffer:
        buffer = Buffer(kind, size, **more)  # type: ignore[arg-type]
        self.buffers.append(buffer)
        return buffer

    def _slot(self, place: Place) -> int:
        key = (id(place.buffer), place.offset)
        if key not in self.slot_of:
            self.slot_of[key] = len(self.slots)
            self.slots.append((place.buffer, place.offset))
        return self.slot_of[key]

    def _emit(self, step: native.Step | None, record: StepRecord) -> None:
        at = len(self.records)
        for place in record.places:
            if place.buffer.first < 0:
                place.buffer.first = at
            place.buffer.last = at
        self.steps.append(step)
        self.records.append(record)

    def _constant(self, data: torch.Tensor) -> Place:
        value = Value(tuple(data.shape), data.dtype)
        return Place(self._buffer("constant", data.nbytes, data=data), 0, dense(value, PLAIN))

    def _remember(self, value: Value, format: str, place: Place) -> None:
        self.places[value.id, format] = place
        self.lies.append((self.records[-1] if self.records else None, value, place))
        self._lies(value, place)

    def _lies(self, value: Value, place: Place) -> None:
        place.buffer.read_until = max(place.buffer.read_until, self.last_reader.get(value.id, -1))

    # -- reading ---------------------------------------------------------------------------------------------------------

    def _read(self, value: Value, format: str) -> Place:
        """The place of ``value`` in ``format``; a reorder is added where there is none yet."""
        if (value.id, format) in self.places:
            return self.places[value.id, format]
        if value.is_constant and format == PLAIN:
            place = self._constant(self.weights.plain(value, value.dtype))
            self.places[value.id, PLAIN] = place
            return place
        home = self._home(value)
        wanted = dense(value, format)
        if home.desc.same_memory(wanted):
            place = Place(home.buffer, home.offset, wanted)
        else:
            place = Place(self._buffer("arena", wanted.bytes), 0, wanted)
            self._move(value, home, place, "reorder", f"{self.home[value.id]}→{format}")
        self._remember(value, format, place)
        return place

    def _home(self, value: Value) -> Place:
        """Where ``value`` lies since its producer left it."""
        if value.id not in self.home:
            self._read(value, PLAIN)  # a constant
            self.home[value.id] = PLAIN
        return self.places[value.id, self.home[value.id]]

    def _move(self, value: Value, source: Place, target: Place, kind: str, layout: str, node: Node | None = None) -> None:
        """One step that copies ``value`` from place to place, whatever their formats."""
        try:
            step: native.Step | None = native.Reorder(source.desc, target.desc)
        except ValueError:
            step = None
        name = f"onednn {step.implementation}" if step else ""
        if step is None or "ref" in name or "simple" in name:
            try:
                step = copy_step(source.desc, target.desc)
                name = f"drystone {step.implementation}"
            except ValueError:  # no kernels for this CPU
                if step is None:
                    raise
        self._emit(step, StepRecord(kind, value, name, layout, node, places=[source, target]))

    # -- cat in place ----------------------------------------------------------------------------------------------------

    def _place_parts(self) -> None:
        """Decide which parts of a cat are produced inside the whole. Where that can't be, ``_cat`` copies them."""
        cats = [node for node in self.graph if isinstance(node.op, Cat) and self.choice[node][0] is not ATEN]
        for node in cats:
            start = 0
            for value in node.inputs:
                producer = value.producer
                takes = (
                    not value.is_constant
                    and producer is not None
                    and value is producer.output
                    and value.id not in self.parents
                    and value.id not in self.output_index
                    and self.choice[producer][0] is not ATEN
                    and self.choice[producer][1].output == self.choice[node][1].output
                )
                if takes:
                    self.parents[value.id] = (node.output, start)
                start += value.shape[node.of(Cat).dim]
        for node in reversed(cats):  # what a cat is a part of comes after it
            self.wholes[node.output.id] = self._output_place(node.output, self.choice[node][1].output)

    def _inside(self, value: Value, format: str) -> Place | None:
        """The place of ``value`` inside the cat that it is a part of, or None."""
        if value.id not in self.parents:
            return None
        whole, start = self.parents[value.id]
        assert whole.producer is not None
        if self.choice[whole.producer][1].output != format:
            return None  # the first choice for the part's producer turned out impossible
        parent = self.wholes[whole.id]
        dim = whole.producer.of(Cat).dim
        block = block_of(format, dim)
        if start % block or value.shape[dim] % block:
            return None
        desc = seen_as(parent.desc, value.shape, parent.desc.strides)
        if desc.same_memory(dense(value, format)):
            desc = dense(value, format)
        offset = parent.offset + start // block * parent.desc.strides[dim] * value.dtype.itemsize
        return Place(parent.buffer, offset, desc)

    def _output_place(self, value: Value, format: str) -> Place:
        """Where the producer of ``value`` is to write it."""
        inside = self._inside(value, format)
        if inside is not None:
            return inside
        if value.id not in self.roots:
            desc = dense(value, format)
            index = self.output_index.get(value.id)
            if index is not None and same_memory(value, format, self.ends.of_output(index)):
                self.roots[value.id] = self._buffer("output", desc.bytes, index=index)
            else:
                self.roots[value.id] = self._buffer("arena", desc.bytes)
        return Place(self.roots[value.id], 0, dense(value, format))

    def _cat(self, node: Node, format: str) -> None:
        whole = self._output_place(node.output, format)
        start = 0
        dim = node.of(Cat).dim
        block = block_of(format, dim)
        for value in node.inputs:
            if value.numel:
                offset = whole.offset + start // block * whole.desc.strides[dim] * value.dtype.itemsize
                there = self.places.get((value.id, format))
                if there is None or there.buffer is not whole.buffer or there.offset != offset:
                    desc = seen_as(whole.desc, value.shape, whole.desc.strides)
                    target = Place(whole.buffer, offset, desc)
                    source = there or self._home(value)
                    self._move(value, source, target, "node", format, node)
            start += value.shape[dim]
        self._remember(node.output, format, whole)
        self.home[node.output.id] = format

    # -- nodes -----------------------------------------------------------------------------------------------------------

    def _free_inputs(self, position: int, node: Node, places: list[Place]) -> frozenset[int]:
        """The inputs whose memory may be overwritten: nothing that lies in it is read after this node."""
        free = set()
        buffers = [place.buffer for place in places]
        for i, (value, place) in enumerate(zip(node.inputs, places, strict=True)):
            written = place.buffer.kind == "input" and self._becomes(place.buffer.index, node.output)
            whole = (place.buffer.kind == "arena" or written) and place.offset == 0 and place.buffer.size == place.desc.bytes
            over = place.buffer.read_until <= position
            alone = buffers.count(place.buffer) == 1
            if whole and over and alone and not value.is_constant and value.id not in self.parents:
                free.add(i)
        return frozenset(free)

    def _becomes(self, index: int, value: Value) -> bool:
        """Whether the memory of an input is to become ``value``, an output."""
        output = self.graph.written.get(index)
        return output is not None and self.output_index.get(value.id) == output

    def _find_strided(self) -> None:
        """From the last view to the first. (A choice that turns out impossible is one of an earlier node.)"""
        for node in reversed(self.graph.nodes):
            if not node.op.views:
                continue
            value = node.output
            self.strided[value.id] = (
                value.id not in self.output_index
                and value.id not in self.parents
                and all(
                    self.choice[reader][0].reads_strided is not None
                    or (self._moves_nothing(reader) and self.strided[reader.output.id])
                    for reader in self.readers.get(value.id, ())
                )
            )

    def _moves_nothing(self, node: Node) -> bool:
        return node.op.views and self.choice[node][1] == Layout((PLAIN,), PLAIN)

    def _view(self, node: Node, source: Place) -> Place | None:
        """``node`` as other strides over the memory of its operand, where its readers can do with them."""
        implementation = self.choice[node][0]
        if not isinstance(implementation, Movement) or not self._moves_nothing(node) or not self.strided[node.output.id]:
            return None
        found = implementation.strided_view(node, source.desc)
        if found is None:
            return None
        offset, desc = found
        wanted = [self.choice[reader][0].reads_strided for reader in self.readers.get(node.output.id, ())]
        if any(least and _run(desc) < max([least, *desc.shape[-1:]]) for least in wanted):
            return None
        return Place(source.buffer, source.offset + offset * node.output.dtype.itemsize, desc)

    def _create(
        self, implementation: Implementation, node: Node, places: list[Place], target: Place, position: int
    ) -> tuple[Created, Place]:
        """The step of ``node``, written inside its cat where the same kernel can, densely elsewhere."""
        format = self.choice[node][1].output
        inside = target.buffer is not self.roots.get(node.output.id)
        own = Place(self._buffer("arena", dense(node.output, format).bytes), 0, dense(node.output, format)) if inside else target
        free = frozenset() if inside else self._free_inputs(position, node, places)
        if own.buffer.kind == "output":  # which lies nowhere else than where it is to be
            free = frozenset(index for index in free if places[index].buffer.kind == "input")
        inputs = [place.desc for place in places]
        created = implementation.create(node, inputs, own.desc, Context(self.weights, free))
        if not inside or created.step is None:
            return created, own
        if target.desc.is_dense:
            return created, target
        try:
            strided = implementation.create(node, inputs, target.desc, Context(self.weights))
        except ValueError:
            return created, own
        # A slice may be a view with the very strides that it would have in the cat: one copy from there is all that it takes.
        if strided.step is None or strided.step.implementation == created.step.implementation:
            return strided, target
        return created, own

    def _served(self, implementation: Implementation, node: Node, places: list[Place]) -> list[Place]:
        """``places``, with those that lie with holes (parts of a cat) copied densely where the kernel wants that."""
        if all(place.desc.is_dense for place in places):
            return places
        output = dense(node.output, self.choice[node][1].output)
        wanted = [
            place if place.desc.is_dense else self._dense_copy(value, place)
            for value, place in zip(node.inputs, places, strict=True)
        ]
        usual = implementation.create(node, [place.desc for place in wanted], output, Context(self.weights))
        try:
            strided = implementation.create(node, [place.desc for place in places], output, Context(self.weights))
        except ValueError:
            strided = None
        if strided and (strided.step is None or (usual.step and usual.step.implementation == strided.step.implementation)):
            return places
        for i, (place, copy) in enumerate(zip(places, wanted, strict=True)):
            if copy is not place and copy.buffer.first < 0:
                value = node.inputs[i]
                step = copy_step(place.desc, copy.desc)
                self._emit(step, StepRecord("copy", value, f"drystone {step.implementation}", "dense", places=[place, copy]))
        return wanted

    def _dense_copy(self, value: Value, place: Place) -> Place:
        """Where a dense copy of a strided value lies, or will."""
        key = (value.id, f"dense {place.desc.format}")
        if key not in self.places:
            desc = densely(place.desc, place.desc.shape)
            self.places[key] = Place(self._buffer("arena", desc.bytes), 0, desc)
            self._lies(value, self.places[key])
        return self.places[key]

    def _node(self, position: int, node: Node) -> None:
        while True:
            implementation, layout = self.choice[node]
            if isinstance(node.op, Cat) and implementation is not ATEN:
                return self._cat(node, layout.output)
            try:
                places = [
                    self._constant_place(value) if format is None else self._read(value, format)
                    for value, format in zip(node.inputs, layout.inputs, strict=True)
                ]
                if implementation is ATEN:
                    return self._aten(node, places)
                view = self._view(node, places[0])
                if view is not None:
                    self._remember(node.output, layout.output, view)
                    self.home[node.output.id] = layout.output
                    return None
                places = self._served(implementation, node, places)
                target = self._output_place(node.output, layout.output)
                created, target = self._create(implementation, node, places, target, position)
                break
            except ValueError as error:
                if implementation is ATEN:
                    raise
                self.roots.pop(node.output.id, None)
                self.choice[node] = self.fallback(node, (implementation, layout), str(error))
        if created.view_of is not None:
            source = places[created.view_of]
            place = Place(source.buffer, source.offset + created.view_offset, target.desc)
            self._lies(node.output, place)
        else:
            assert created.step is not None
            if created.overwrites is not None:
                target = Place(places[created.overwrites].buffer, 0, target.desc)
            place = target
            made = target if created.after is None else self._temporary(created.after.desc)
            targets = [made, *(self._output_place(value, PLAIN) for value in node.outputs[1:])]
            for value, other in zip(node.outputs[1:], targets[1:], strict=True):
                self._remember(value, PLAIN, other)
                self.home[value.id] = PLAIN
            for index, converted in created.before.items():
                lies, places[index] = places[index], self._temporary(converted.desc)
                self._convert(node, node.inputs[index], converted.step, lies, places[index])
            operands = [self._operand(node, operand, places, targets) for operand in created.operands]
            name = f"{implementation.name} {created.step.implementation}".strip()
            overwritten = None if created.overwrites is None else node.inputs[created.overwrites]
            record = StepRecord("node", node.output, name, str(layout), node, places=operands, overwrites=overwritten)
            self._emit(created.step, record)
            if isinstance(created.step, native.Product) and created.step.has_exact_run:
                self.frail.append(node)
            if created.finish is not None:
                step, more = created.finish
                lie = [self._operand(node, operand, places, targets) for operand in more]
                name = f"{implementation.name} {step.implementation}"
                self._emit(step, StepRecord("finish", node.output, name, str(layout), node, places=lie))
            if created.after is not None:
                self._convert(node, node.output, created.after.step, made, place)
        self._remember(node.output, layout.output, place)
        self.home[node.output.id] = layout.output

    def _temporary(self, desc: native.TensorDesc) -> Place:
        return Place(self._buffer("arena", desc.bytes), 0, desc)

    def _convert(self, node: Node, value: Value, step: native.Step, source: Place, target: Place) -> None:
        """A step of ``node`` that only converts an operand or its result."""
        layout = f"{source.desc.dtype.name}→{target.desc.dtype.name}"
        self._emit(step, StepRecord("copy", value, f"drystone {step.implementation}", layout, node, places=[source, target]))

    def _constant_place(self, value: Value) -> Place:
        """Constants have a description for the implementation; it passes their memory itself (packed, or as it is)."""
        return Place(Buffer("constant", value.bytes), 0, dense(value, PLAIN))

    def _operand(self, node: Node, operand: Operand, places: list[Place], targets: list[Place]) -> Place:
        if not isinstance(operand, torch.Tensor):
            where, index = operand
            if where == "out":
                return targets[index]
            value = node.inputs[index]
            if not value.is_constant:
                return places[index]
            operand = self.weights.plain(value, value.dtype)  # as an epilogue reads it
        address = operand.data_ptr()
        if address not in self.constants:
            self.constants[address] = self._constant(operand)
        return self.constants[address]

    def _aten(self, node: Node, places: list[Place]) -> None:
        created = ATEN.create(node, [place.desc for place in places], dense(node.output, PLAIN), Context(self.weights))
        targets: list[Place | None] = []
        for value in node.outputs:
            if value.id not in self.last_reader and value is not node.output:
                targets.append(None)  # of the operators' extra results some have shapes that the trace does not foresee
                continue
            target = self._held(value) or self._output_place(value, PLAIN)
            targets.append(target)
            self._remember(value, PLAIN, target)
            self.home[value.id] = PLAIN
        reads = [
            self._constant(self.weights.plain(value, value.dtype)) if value.is_constant else place
            for value, place in zip(node.inputs, places, strict=True)
        ]
        record = StepRecord("aten", node.output, "aten", PLAIN, node, call=created.call, call_inputs=reads, call_outputs=targets)
        record.places = reads + [target for target in targets if target]
        self._emit(None, record)

    def _held(self, value: Value) -> Place | None:
        """Where a result of ATen's stays as torch made it, or None where others than ATen read it."""
        if value.id in self.output_index or any(self.choice[reader][0] is not ATEN for reader in self.readers.get(value.id, ())):
            return None
        desc = dense(value, PLAIN)
        return Place(self._buffer("held", desc.bytes), 0, desc)

    # -- the whole -------------------------------------------------------------------------------------------------------

    def run(self) -> Assembled:
        inputs = []
        for i, value in enumerate(self.graph.inputs):
            format = self.ends.of_input(i)
            desc = dense(value, format)
            place = Place(self._buffer("input", desc.bytes, index=i), 0, desc)
            self._remember(value, format, place)
            self.home[value.id] = format
            inputs.append(place)
        self._place_parts()
        self._find_strided()
        for position, node in enumerate(self.graph):
            self._node(position, node)
        outputs = []
        within: dict[int, int] = {}
        for i, value in enumerate(self.graph.outputs):
            format = self.ends.of_output(i)
            place = self.places.get((value.id, format)) or self._home(value)
            if place.buffer.kind == "input" and self.graph.written.get(place.buffer.index) == i and value not in self.graph.inputs:
                within[i] = place.buffer.index
            elif place.buffer.kind != "output" or place.buffer.index != i:
                target = Place(self._buffer("output", dense(value, format).bytes, index=i), 0, dense(value, format))
                moved = (value.id, format) not in self.places
                kind, layout = ("reorder", f"{self.home[value.id]}→{format}") if moved else ("copy", format)
                self._move(value, place, target, kind, layout)
                place = target
            outputs.append(Place(place.buffer, place.offset, dense(value, format)))
        arena = [buffer for buffer in self.buffers if buffer.kind == "arena" and buffer.first >= 0]
        offsets, total = plan_arena([Lifetime(b.size, b.first, b.last) for b in arena], ALIGNMENT)
        for buffer, offset in zip(arena, offsets, strict=True):
            buffer.offset = offset
        dtypes = [value.dtype for value in self.graph.outputs]
        names = [value.name for value in self.graph.inputs]
        program, records = self._program()
        return Assembled(program, records, self.slots, inputs, names, outputs, dtypes, total, self.choice, self.lies, within)

    def _program(self) -> tuple[native.Program, list[StepRecord]]:
        """The steps in order, with the guards that they need; an autotuning run, whose weights are none, does without."""
        made_at = {value.id: i for i, record in enumerate(self.records) if record.node for value in record.node.outputs}
        guards: dict[int, list[tuple[native.Step, StepRecord]]] = {}  # by the record that they follow; -1: before all
        steps: dict[int, tuple[native.Step, Place]] = {}

        def can_guard(value: Value) -> bool:
            if (value.id not in made_at and value not in self.graph.inputs) or value.id not in self.home:
                return False
            place = self._home(value)
            if place.buffer.kind == "held":
                return False
            try:
                steps[value.id] = native.guard(place.desc, LIMIT), place
            except ValueError:
                return False
            return True

        watched = Watch() if self.weights.are_placeholders else watch(self.graph, self.frail, self.weights, can_guard)
        for value in watched.guarded:
            step, place = steps[value.id]
            record = StepRecord("guard", value, f"drystone {step.implementation}", self.home[value.id], places=[place])
            guards.setdefault(made_at.get(value.id, -1), []).append((step, record))

        program = native.Program()
        records: list[StepRecord] = []

        def add(step: native.Step | None, record: StepRecord) -> None:
            if step is not None:
                program.add(
                    step, [self._slot(place) for place in record.places], record.kind == "node" and record.node in watched.exact
                )
            records.append(record)

        for i in range(-1, len(self.records)):
            if i >= 0:
                add(self.steps[i], self.records[i])
            for step, record in guards.get(i, ()):
                add(step, record)
        return program, records


def _run(desc: native.TensorDesc) -> int:
    """How many elements follow each other, by the last axes."""
    run = 1
    for size, stride in zip(reversed(desc.shape), reversed(desc.strides), strict=True):
        if size > 1 and stride != run:
            break
        run *= size
    return run
