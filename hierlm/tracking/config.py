"""What a user writes about tracking."""

from pydantic import Field, field_validator

from hierlm.strict import Strict

NO_TRACKER = "none"
_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")


class TrackingConfig(Strict):
    """MLflow server or database, and the experiment the run belongs to."""

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
    def a_scheme_we_can_follow(cls, uri: str) -> str:
        scheme = uri.partition("://")[0].partition("+")[0]
        if uri != NO_TRACKER and ("://" not in uri or scheme not in _SCHEMES):
            raise ValueError(f"{uri!r} is neither `none` nor SCHEME://..., SCHEME one of {', '.join(_SCHEMES)}")
        return uri
