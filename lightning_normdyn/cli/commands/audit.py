"""``normdyn audit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import Count, File, Folder, Name, Table, Value

if TYPE_CHECKING:
    from lightning_normdyn.cli.audits.run import AuditRecord

ModelFolder = Annotated[str, Value("FOLDER")]
Tag = Annotated[str, Value("TAG")]
ArrayFile = Annotated[str, Value("NPY")]


@command(Shell(extra=("cli,report", ("rich", "matplotlib"))))
def audit(
    *,
    model: ModelFolder | None = None,
    pretrained: Tag | None = None,
    embeddings: File | None = None,
    column: Name | None = None,
    texts: File | None = None,
    images: ModelFolder | None = None,
    beir: ModelFolder | None = None,
    split: Name | None = None,
    queries: File | None = None,
    judgements: Table | None = None,
    covariates: Table | None = None,
    measure: Name = "ndcg@10",
    batch_size: Count = 32,
    max_length: Count = 256,
    device: Name | None = None,
    save: ArrayFile | None = None,
    out: Folder = "audit",
    overwrite: bool = False,
) -> AuditRecord:
    """Say what the norms of a model's or of ready embeddings carry, and whether to use them.

    From a model with texts or images, or from a file of embeddings; nothing is trained.

    Args:
        model: of transformers, sentence-transformers or open_clip
        pretrained: weights for a plain name of open_clip
        embeddings: ready ones: .npy, .npz, .parquet or .safetensors
        column: of the embeddings, where files hold several; queries' too
        texts: one a line, or .tsv or .jsonl with ids; plain or .gz
        images: of images, at any depth
        beir: documents, queries and judgements as BEIR has them
        split: of its judgements (default: test, or the only one)
        queries: embeddings of queries, or their texts for --model
        judgements: query, document, grade; ids as in the files
        covariates: id and further columns: numbers, or names of groups
        measure: ndcg, mrr, recall, map or hits @k
        batch_size: inputs at a time
        max_length: tokens
        device: of the model (default: cuda where there is one, else cpu)
        save: keep the embeddings that the model makes
        out: for both files
        overwrite: replace the audit that is there

    Returns:
        The findings, and where the page is.

    Raises:
        ValueError: if the input does not fit together or holds what it should not; nothing is written then.
        OSError: if a file cannot be read or written.
    """
    from lightning_normdyn.cli.audits.encoding import EncoderRequest
    from lightning_normdyn.cli.audits.input import AuditRequest
    from lightning_normdyn.cli.audits.run import run_audit

    encoder = EncoderRequest(model, pretrained, batch_size, max_length, device, save)
    request = AuditRequest(
        encoder, embeddings, column, texts, images, beir, split, queries, judgements, covariates, measure
    )
    return run_audit(request, out, overwrite=overwrite)
