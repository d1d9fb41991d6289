"""What a user writes about tracking."""

from pydantic import Field, ValidationInfo, field_validator

from data_pipeline.masking import holds_secret
from hierlm.strict import Strict

NO_TRACKER = "none"
MLFLOW = "mlflow"
_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")


class TrackingConfig(Strict):
    """MLflow server or database, or another tracker, and the experiment the run belongs to."""

    kind: str = Field(default=MLFLOW, description="file of hierlm/tracking/trackers, or a plugin's")
    uri: str = Field(
        default="sqlite:///runs/mlflow.db",
        description="sqlite:///FILE, http(s)://SERVER, postgresql://... or `none`; metrics.jsonl is written always",
    )
    experiment: str = Field(default="hierlm", min_length=1)
    sweep: str | None = Field(default=None, min_length=1, description="runs of one sweep are grouped under this name")

    sweep_size: int | None = Field(
        default=None, ge=1, description="members of the sweep: its parent run ends when so many have; None: those known"
    )

    @field_validator("uri")
    @classmethod
    def no_secrets(cls, uri: str) -> str:
        """What stands here is written into the run's directory and sent to the tracker."""
        if holds_secret(uri):
            raise ValueError(
                "holds a user or a password, and a config is written down and sent on; leave them out and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment (for a database what its "
                "client reads, such as PGUSER and PGPASSWORD)"
            )
        return uri

    @field_validator("uri")
    @classmethod
    def a_scheme_we_can_follow(cls, uri: str, info: ValidationInfo) -> str:
        """Of MLflow's; another tracker reads its address as it likes."""
        if info.data.get("kind") != MLFLOW:
            return uri
        scheme = uri.partition("://")[0].partition("+")[0]
        if uri != NO_TRACKER and ("://" not in uri or scheme not in _SCHEMES):
            raise ValueError(f"{uri!r} is neither `none` nor SCHEME://..., SCHEME one of {', '.join(_SCHEMES)}")
        return uri

    @property
    def chosen_kind(self) -> str:
        """`none` where the address says so, as `uri: none` turns every tracker off."""
        return NO_TRACKER if self.uri == NO_TRACKER else self.kind
