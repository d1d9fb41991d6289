"""What sources are called where numbers are told by source."""

import pytest

from data_pipeline.config import DataConfig, SourceConfig


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["data/wiki"], ("wiki",)),
        (["data/wiki", "/mnt/code/"], ("wiki", "code")),
        (["a/prepared", "b/prepared"], ("a-prepared", "b-prepared")),
        (["s3://bucket/wiki v2", "data/code@1"], ("wiki_v2", "code_1")),
        (["data/wiki", "data/wiki"], ("data-wiki-0", "data-wiki-1")),
    ],
)
def test_a_source_is_called_by_the_end_of_its_path_that_tells_it_apart(paths: list[str], names: tuple[str]) -> None:
    config = DataConfig(sources=tuple(SourceConfig(path=path) for path in paths))
    assert config.source_names == names
    back = DataConfig(sources=config.sources[::-1]).source_names
    assert len(set(paths)) == 1 or back == names[::-1]
