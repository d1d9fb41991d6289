"""Layers are pure: nothing of a call is left in them, so they may be cut, repeated and computed again."""

import torch
from torch import Tensor

from hierlm.contract.case import Case, NotConcernedError, require, require_close
from hierlm.models.assembly import LanguageModel
from hierlm.nn.inputs import with_tokens
from hierlm.nn.layer import StepContext, fold
from hierlm.nn.stream import Stream
from hierlm.parallel.recompute import Recompute, run_layers

SEED, STEP = 5, 2
RECOMPUTES: tuple[Recompute, ...] = ("selective", "full")


@torch.no_grad()
def forward_is_the_fold_over_the_list(case: Case) -> None:
    """Cut anywhere into stages, with copies of the levels between them, the logits are the same; one level is left."""
    model, text = case.model, case.tokens(10)
    pieces, memories, expected = list(model.layers), model.initial_state(text), model(text)[0]
    for cut in range(1, len(pieces)):
        stream, _ = fold(pieces[:cut], Stream.of(text), memories[:cut])
        stream, _ = fold(pieces[cut:], stream.with_levels(*(level.clone() for level in stream.levels)), memories[cut:])
        require(len(stream.levels) == 1, f"{len(stream.levels)} levels are left after the last layer, 1 is expected")
        require_close(stream.output, expected, within=0.0, what=f"logits with a stage from layer {cut} on")


def inputs_and_reports_are_passed_on(case: Case) -> None:
    """Every layer hands on what the batch says and what was reported before; a report has one finite number per row."""
    for training in (False, True):
        model, text = case.copy.train(training), case.tokens(11)
        inputs = with_tokens(text, {"marks": torch.zeros(2)})
        stream = Stream.of(inputs).with_sum("before", torch.ones(2))
        before = stream.reports[0]
        for index, (layer, memory) in enumerate(zip(model.layers, model.initial_state(text), strict=True)):
            stream, _ = layer(stream, memory)
            require(stream.inputs is inputs, f"layer {index} does not pass on the inputs of its stream")
            is_passed = bool(stream.reports) and stream.reports[0] is before
            require(is_passed, f"layer {index} does not pass on what was reported before")
            odd = [r.name for r in stream.reports if len(r.per_row) != 2 or not torch.isfinite(r.per_row).all()]
            require(not odd, f"layer {index} reports something else than a finite number per row: {', '.join(odd)}")


def stores_nothing_between_calls(case: Case) -> None:
    """A call leaves no trace: in training and in evaluation, what was read before changes nothing, no buffer either."""
    for training in (False, True):
        fresh, used = case.copy.train(training), case.copy.train(training)
        before = {name: buffer.clone() for name, buffer in used.named_buffers()}
        run_for_training(used, case.tokens(12, seed=9))
        changed = [name for name, buffer in used.named_buffers() if not torch.equal(buffer, before[name])]
        require(not changed, f"a forward pass changes {', '.join(changed)}")
        found, expected = (run_for_training(model, case.tokens(12)) for model in (used, fresh))
        where = "training" if training else "evaluation"
        require_close(found, expected, within=0.0, what=f"in {where}, logits after another text was read")


def recompute_changes_nothing(case: Case) -> None:
    """With activation recompute, selective and full, gradients and new memories are the same."""
    expected_gradients, expected_memories = _gradients(case, recompute="none")
    for recompute in RECOMPUTES:
        gradients, memories = _gradients(case, recompute=recompute)
        for name, gradient in gradients.items():
            require_close(gradient, expected_gradients[name], within=1e-6, what=f"{recompute}: gradients of {name}")
        for found, expected in zip(memories, expected_memories, strict=True):
            require_close(found, expected, within=0.0, what=f"{recompute}: memories")


@torch.no_grad()
def state_continues_the_streams(case: Case) -> None:
    """A second segment with the state of the first differs from one without; the state carries no graph."""
    text = case.tokens(8)
    with torch.enable_grad():
        _, state = case.model(text[:, :4])
    if state is None:
        raise NotConcernedError("no recurrent memory")
    tensors = [tensor for memory in state if memory is not None for tensor in memory]
    require(not any(tensor.requires_grad for tensor in tensors), "the state that is returned carries a graph")
    with_state, _ = case.model(text[:, 4:], state)
    require(not torch.allclose(with_state, case.model(text[:, 4:])[0]), "the state of a segment changes nothing")


def run_for_training(model: LanguageModel, text: Tensor) -> Tensor:
    """Logits as a training step makes them, of the same draws every time."""
    _begin_step(model)
    layers = dict(enumerate(model.layers))
    stream, _ = run_layers(layers, Stream.of(text), model.initial_state(text), draw_key=(SEED, STEP, 0))
    return stream.hidden.detach()


def _begin_step(model: LanguageModel) -> None:
    switches = {switch: getattr(model.config, switch) for switch in model.config.train_switches()}
    for layer in model.layers:
        layer.begin_step(StepContext(STEP, SEED, switches))


def _gradients(case: Case, *, recompute: Recompute) -> tuple[dict[str, Tensor], list[Tensor]]:
    model, text = case.copy.float().train(), case.tokens(12)  # in a precision that training has
    _begin_step(model)
    stream, memories = run_layers(
        dict(enumerate(model.layers)),
        Stream.of(text),
        model.initial_state(text),
        draw_key=(SEED, STEP, 0),
        recompute=recompute,
    )
    stream.hidden.logsumexp(dim=-1).mean().backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return named, [tensor.detach() for memory in memories if memory is not None for tensor in memory]
