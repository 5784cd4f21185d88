"""The named actions, in label order."""

from __future__ import annotations

from collections.abc import Sequence

from tmor_fast.data.synthetic.action import Action
from tmor_fast.data.synthetic.body_actions import BODY_ACTIONS
from tmor_fast.data.synthetic.hand_actions import HAND_ACTIONS
from tmor_fast.data.synthetic.leg_actions import LEG_ACTIONS
from tmor_fast.data.synthetic.moving_actions import MOVING_ACTIONS

#: Every action, in label order.
ACTIONS: tuple[Action, ...] = (*HAND_ACTIONS, *LEG_ACTIONS, *BODY_ACTIONS, *MOVING_ACTIONS)

#: Actions to hold out for zero-shot recognition: all words of their names occur in names of other actions.
ZERO_SHOT_ACTIONS = (
    "wave the right hand",
    "punch with the left hand",
    "kick with the left leg",
    "raise both hands",
    "run in place",
    "step to the right side",
)


def action_names(actions: Sequence[Action] | None = None) -> list[str]:
    """Names of `actions` (default: of all `ACTIONS`), in label order."""
    return [action.name for action in (ACTIONS if actions is None else actions)]


def get_actions(names: Sequence[str | Action] | None) -> tuple[Action, ...]:
    """The actions called `names`, in that order; all of them for None.

    Raises:
        ValueError: a name that no action has, a name given twice, or no name at all.
    """
    if names is None:
        return ACTIONS
    by_name = {action.name: action for action in ACTIONS}
    chosen = []
    for name in names:
        if isinstance(name, Action):
            chosen.append(name)
        elif name in by_name:
            chosen.append(by_name[name])
        else:
            raise ValueError(f"no synthetic action '{name}'; actions are: {', '.join(by_name)}")
    if not chosen or len({action.name for action in chosen}) < len(chosen):
        raise ValueError(f"actions must be at least one name, each once; got {[action.name for action in chosen]}")
    return tuple(chosen)
