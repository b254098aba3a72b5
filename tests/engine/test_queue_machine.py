"""The queues against their obvious twins (queue_machine.py): order, priorities, limits, expiry, leases, attempts,
dead letters, consumers of every kind, delays and retries, transactions, restarts."""

from __future__ import annotations

import random

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machine_actions import Action, Setup, pick_action, pick_setup
from queue_machine import QueueMachine, run_at_random


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    return pick_setup(lambda options: draw(st.sampled_from(options)))


@st.composite
def actions(draw: st.DrawFn) -> Action:
    return pick_action(lambda options: draw(st.sampled_from(options)))


class Machine(RuleBasedStateMachine):
    """There is one rule for all actions, as Hypothesis leaves some rules out in each example, and without any of
    these little happens."""

    machine: QueueMachine | None = None

    @initialize(setup=setups())
    def begin(self, setup: Setup) -> None:
        self.machine = QueueMachine(setup)

    @rule(action=actions())
    def act(self, action: Action) -> None:
        assert self.machine is not None
        self.machine.act(action)

    @invariant()
    def same(self) -> None:
        if self.machine is not None:
            self.machine.check()

    def teardown(self) -> None:
        if self.machine is not None:
            try:
                self.machine.drain()
            finally:
                self.machine.close_down()


Machine.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
)
TestQueuesAgainstTheirTwins = Machine.TestCase


def test_actions_at_random() -> None:
    """Hypothesis makes failures small, but tries much that is alike; chance alone gets around more."""
    seed = random.SystemRandom().randrange(10**9)
    for number in range(seed, seed + 1000):
        failure = run_at_random(number, 60)
        assert not failure, f"run_at_random({number}, 60):\n" + "\n".join(map(str, failure))
