"""``explain``: the programs that a model optimised in place has so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from drystone.inplace.forward import NAME
from drystone.inplace.state import InPlace
from drystone.runtime.explain import Explanation, PartedExplanation


@dataclass
class InPlaceExplanation:
    """The explanations of a model optimised in place, by the qualified name of each optimised module.

    A module has one for each form of its calls. A module that can't be captured whole has the explanation of its parts.
    ``preparing`` has the names of those that are being captured in the background.
    """

    modules: dict[str, list[Explanation | PartedExplanation]]
    preparing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = [f"{name or 'the model'}:\n{explanation}" for name, each in self.modules.items() for explanation in each]
        shown += [f"{name or 'the model'} is being captured in the background" for name in self.preparing]
        return "\n\n".join(shown) or "nothing is prepared yet: the first call prepares it"


def explain(model: nn.Module) -> InPlaceExplanation:
    """Explain the programs that ``optimize_`` has made in ``model`` so far.

    >>> model = optimize_(nn.Linear(4, 2).eval(), torch.ones(1, 4), tuning="estimate")
    >>> list(explain(model).modules)
    ['']
    """
    found: dict[str, list[Explanation | PartedExplanation]] = {}
    preparing = []
    for name, module in model.named_modules():
        state = vars(module).get(NAME)
        if isinstance(state, InPlace):
            made = [fast.explain() for fast in state.fast]
            found[name] = [state.parts.explain(), *made] if state.parts else [*made]
            preparing += [name] if state.background and state.background.preparing else []
        elif state is not None and state.fast is not None:
            found[name] = [state.fast.explain()]
    return InPlaceExplanation({name: each for name, each in found.items() if each}, preparing)
