"""Refuse what cannot run, all reasons at once, before anything heavy is started."""

from data_pipeline.checks import check
from hierlm.config.run_config import RunConfig
from hierlm.errors import UserError
from hierlm.models.config import ModelConfig


def refuse_what_cannot_run(config: RunConfig[ModelConfig]) -> None:
    """UserError with every reason. What the config alone shows has been reported by its loader already."""
    problems = data_problems(config)
    if problems:
        raise UserError(problems)


def data_problems(config: RunConfig[ModelConfig]) -> list[str]:
    """Datasets that are missing, incomplete, of another tokenizer, or too short."""
    return check(
        config.data.weighted_sources,
        sequence_lengths=[phase.sequence_length for phase in config.phases],
        vocab_size=config.model.vocab_size,
        tokenizer=config.data.tokenizer,
    )
