"""Windows in which several documents stand, each read as if it stood alone: none attends to another.

Llama 3 was pretrained so (Grattafiori et al. 2024, section 3.2); Zhao et al. 2024 ("Analysing the impact of sequence
composition on language model pre-training") measure what it gains. The mask is that of fine-tuning (`Network.hidden`).
Not for where windows come from: any source of next-token windows can be wrapped.
"""

from dataclasses import dataclass

from chatwright.train.batches import FittableSource, MicroBatch


@dataclass(frozen=True, kw_only=True)
class SeparatedSource:
    """The batches of another source, with what says where its documents begin.

    In token shards each document is followed by the end-of-text token, which text never becomes: where it is read, the
    next document begins. It predicts that document's first token, as it does in held-out measurements, so it belongs to
    the document that it begins, and as a target to the one that it ends.
    """

    source: FittableSource
    end_of_text: int
    fingerprint: str

    def step(self, number: int) -> list[MicroBatch]:
        """The source's own; rows without a boundary are left to plain causality, which is the same and faster."""
        return [self._separated(batch) for batch in self.source.step(number)]

    def longest(self) -> MicroBatch:
        """The source's own, with the mask whatever stands in it: it takes memory."""
        return self._separated(self.source.longest(), always=True)

    def _separated(self, batch: MicroBatch, *, always: bool = False) -> MicroBatch:
        begins_BT = batch.ids_BT == self.end_of_text
        if not always and not begins_BT[:, 1:].any():
            return batch
        return batch._replace(documents_BT=begins_BT.cumsum(dim=1))
