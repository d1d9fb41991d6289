"""What may be written about tracking."""

import pytest
from pydantic import ValidationError

from hierlm.tracking.config import TrackingConfig


@pytest.mark.parametrize(
    "uri", ["none", "sqlite:///runs/a.db", "http://host:5000", "https://host", "postgresql+psycopg2://u@h/db"]
)
def test_addresses_that_can_be_followed_are_taken(uri: str) -> None:
    assert TrackingConfig(uri=uri).uri == uri


@pytest.mark.parametrize("uri", ["runs/mlflow.db", "", "file:///runs/mlruns", "None"])
def test_other_addresses_are_refused_with_what_is_allowed(uri: str) -> None:
    with pytest.raises(ValidationError, match=r"none.*sqlite, http"):
        TrackingConfig(uri=uri)
