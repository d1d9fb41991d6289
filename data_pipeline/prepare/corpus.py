"""How a file's text is read: documents, policy, and what was left out; the same in every pass over it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from data_pipeline.prepare.documents import DocumentOptions, Text, documents_of
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import SourceFile
from data_pipeline.prepare.text_policy import TextPolicy, counted, replaced, split_long

LeftOut = Mapping[tuple[int, int], frozenset[int] | None]
"""(group, file) -> numbers of its documents that are left out; None for the whole file."""


@dataclass(frozen=True)
class Reading:
    """Everything that decides the text of a corpus, given its files."""

    documents: DocumentOptions = field(default_factory=DocumentOptions)
    policy: TextPolicy = field(default_factory=TextPolicy)
    left_out: LeftOut = field(default_factory=dict)

    def texts(self, file: SourceFile, *, group: int, number: int, report: Report | None = None) -> Iterator[Text]:
        """The text of file `number` of `group`; with a report, what is met on the way is counted."""
        dropped = self.left_out.get((group, number), frozenset())
        if dropped is None:
            return
        kept = _without(documents_of(file, options=self.documents, report=report or Report()), dropped)
        if report is not None and self.documents.kind == "text":
            kept = counted(kept, path=file.path, policy=self.policy, report=report)
        if self.policy.replaces:
            kept = replaced(kept)
        if self.policy.split_bytes:
            kept = split_long(kept, limit=self.policy.split_bytes)
        yield from kept


def _without(texts: Iterator[Text], dropped: frozenset[int]) -> Iterator[Text]:
    """The texts of all documents but those numbers."""
    number = 0
    for text in texts:
        if number not in dropped:
            yield text
        number += text.ends_document
