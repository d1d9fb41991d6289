"""Before a long run: one step at the shapes and switches of every phase, so that a late phase holds no surprise.

The state is as if nothing had happened: with a learning rate of 0 no weight changes, and the optimizer's moments and
the recurrent memories are emptied afterwards. It therefore comes before a checkpoint is loaded.
"""

from dataclasses import replace

import torch

from hierlm.parallel.engine import Engine
from hierlm.phases.timeline import Moment, Timeline
from hierlm.train.record.console import Console


def rehearse(engine: Engine, timeline: Timeline, *, console: Console) -> None:
    """Run every phase's first step on made-up rows; a run of one phase needs no rehearsal, its first step is one."""
    moments = _first_moments(timeline)
    if len(moments) < 2:
        return
    for moment in moments:
        phase = moment.phase
        console.say(f"rehearsing phase {phase.name}: {phase.global_batch_size} rows of {phase.sequence_length} tokens")
        rows = torch.randint(
            engine.config.model.vocab_size,
            (len(engine.local_rows(phase.global_batch_size)), phase.sequence_length + 1),
            generator=torch.Generator().manual_seed(engine.dp_rank),
        )
        tokens, at_rest = rows[:, :-1], replace(moment, learning_rate=0.0)
        engine.train_step(tokens, rows[:, 1:], moment=at_rest, inputs=engine.neutral_inputs(tokens))
        engine.forget_steps()


def _first_moments(timeline: Timeline) -> list[Moment]:
    starts = (0, *timeline.boundaries)
    return [timeline.at(step) for step in dict.fromkeys(starts) if step < timeline.num_steps]
