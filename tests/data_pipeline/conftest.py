"""Property tests of this room: no time limit per example, the machine may be busy."""

from hypothesis import settings

settings.register_profile("data_pipeline", deadline=None, max_examples=50)
settings.load_profile("data_pipeline")
