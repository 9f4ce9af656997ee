"""The peer's side of `data.py`: datatrove's local executor with its own blocks, calling our functions, or others'."""

import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import ParquetWriter

WORKERS = 2
TASKS = 8


class OurSteps(PipelineStep):
    """Our extraction, cleaning, signing and encoding as one step of theirs."""

    name = "chatwright's steps"

    def __init__(self, extractor: str, tokenizer: str, output: str):
        super().__init__()
        self.extractor, self.tokenizer, self.output = extractor, tokenizer, output

    def run(self, data, rank: int = 0, world_size: int = 1):  # noqa: ARG002
        import numpy as np

        from chatwright.data.clean import CleanConfig, Keep, clean_document
        from chatwright.data.document import Document
        from chatwright.data.duplicates.corpus import bands_of
        from chatwright.data.duplicates.shingles import word_hashes
        from chatwright.data.extract import HtmlExtractor
        from chatwright.data.sandbox import Unreadable
        from chatwright.tokens.tokenizer import load_tokenizer

        config, tokenizer, ids = CleanConfig(html_extractor=self.extractor), load_tokenizer(Path(self.tokenizer)), []
        with HtmlExtractor(extractor=self.extractor, time_limit_s=config.html_time_limit_s) as extractor:
            for document in data:
                text = document.text
                if document.metadata["kind"] == "html":
                    try:
                        text = extractor.extract(text).text
                    except Unreadable:
                        continue
                raw = Document(id=document.id, text=text, source="bench", path=document.id, domain="web")
                outcome = clean_document(raw, config)
                if isinstance(outcome, Keep):
                    document.text = outcome.document.text
                    document.metadata["bands"] = bands_of(word_hashes(document.text), config.duplicates)
                    ids += tokenizer.encode(document.text)
                    yield document
        np.save(Path(self.output) / f"ids-{rank}.npy", np.array(ids, np.uint16))


class FieldSteps(PipelineStep):
    """The same steps as one of theirs, by the libraries that people take: resiliparse, ftfy, Hugging Face tokenizers.

    Rules and signatures are ours: there is no library whose verdicts would be the same.
    """

    name = "the field's libraries"

    def __init__(self, tokenizer: str, output: str):
        super().__init__()
        self.tokenizer, self.output = tokenizer, output

    def run(self, data, rank: int = 0, world_size: int = 1):  # noqa: ARG002
        import unicodedata

        import ftfy
        import numpy as np
        from resiliparse.extract.html2text import extract_plain_text
        from tokenizers import Tokenizer

        from chatwright.data.clean import CleanConfig
        from chatwright.data.duplicates.corpus import bands_of
        from chatwright.data.duplicates.shingles import word_hashes
        from chatwright.data.rules import first_verdict
        from chatwright.data.rules_base import Shape

        config, tokenizer, ids = CleanConfig(), Tokenizer.from_file(self.tokenizer), []
        for document in data:
            text = document.text
            if document.metadata["kind"] == "html":
                text = extract_plain_text(text, main_content=True, alt_texts=False)
            text = unicodedata.normalize("NFC", ftfy.fix_text(text)).strip()
            if text and first_verdict(Shape(text), config.rules) is None:
                document.text = text
                document.metadata["bands"] = bands_of(word_hashes(text), config.duplicates)
                ids += tokenizer.encode(text, add_special_tokens=False).ids
                yield document
        np.save(Path(self.output) / f"ids-{rank}.npy", np.array(ids, np.uint16))


def main() -> None:
    folder, extractor, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    output = folder / f"datatrove-{kind}"
    output.mkdir()
    tokenizer = str(folder / "tokenizer" / "tokenizer.json")
    if kind == "steps":
        steps = [OurSteps(extractor, str(folder / "tokenizer"), str(output)), ParquetWriter(str(output / "kept"))]
        run(folder / "documents", steps, output)
    elif kind == "field":
        run(folder / "documents", [FieldSteps(tokenizer, str(output)), ParquetWriter(str(output / "kept"))], output)
    else:
        steps = [
            Trafilatura(),
            FTFYFormatter(),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            MinhashDedupSignature(str(output / "signatures"), config=MinhashConfig(n_grams=5)),
            DocumentTokenizer(str(output / "ids"), tokenizer_name_or_path=tokenizer, shuffle_documents=False),
            ParquetWriter(str(output / "kept")),
        ]
        # Signatures end a pipeline of theirs, so what follows runs as a second one over the filtered documents.
        run(folder / "some", [*steps[:5], steps[7]], output)
        run(output / "kept", [steps[5]], output / "second")
        run(output / "kept", [steps[6]], output / "third")
    print(json.dumps({"kept": count(output / "kept")}))


def run(pages: Path, steps: list, output: Path) -> None:
    pattern = "peer-*.parquet" if list(pages.glob("peer-*.parquet")) else "*.parquet"
    reader = ParquetReader(str(pages), text_key="text", id_key="id", glob_pattern=pattern)
    LocalPipelineExecutor([reader, *steps], tasks=TASKS, workers=WORKERS, logging_dir=str(output / "logs")).run()


def count(folder: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))


if __name__ == "__main__":
    main()
