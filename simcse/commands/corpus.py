"""`simcse inspect-data`, `mine`, `score-pairs`, `paraphrases`, `dedup` and `cluster`: work on a whole corpus."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from simcse.commands.shared import Format, as_text, load_encoder, print_json, sources
from simcse.display.hits import SCORE_DIGITS, pair_lines, scores_as_json
from simcse.display.tables import WIDTH, bullet
from simcse.errors import ConfigError, DataError

if TYPE_CHECKING:
    from simcse.evaluation.contamination import Overlap

__all__ = ["cluster", "dedup", "inspect_data", "mine", "paraphrases", "score_pairs"]


def inspect_data(
    source: str,
    *,
    columns: list[str] | None = None,
    rows: Literal["roles", "any_two"] = "roles",
    model: str | None = None,
    max_length: int = 32,
    against: str | None = None,
    format: Format = "text",
) -> None:
    """Tell what in a training file may harm.

    Reads the file to its end, as simcse train would: rows, repeated texts, lengths, blank fields, markup and control
    characters, positives that equal their anchor. With --model also tokens, what --max_length cuts, and a proposal.

    Args:
        source: txt, csv, tsv, jsonl or parquet; .gz too
        columns: names of the columns to read, in this order; default all of the file's 1 to 3
        rows: what a row is: roles, as simcse train reads them; any_two, texts of one meaning in any number of columns,
            such as captions of an image, with or without a header
        model: folder of a checkpoint, hub id, or package:NAME, by whose tokenizer the tokens of 2,000 rows are counted
        max_length: tokens kept of each text, as for simcse train
        against: SentEval's folder, or a file of scored pairs; counts those that stand in the training file
        format: text, or json; auto is text on a terminal, and json where output is piped
    """
    from simcse.data.inspect import as_json, inspect, render

    if max_length < 1:
        raise ConfigError(f"--max_length: found {max_length}, expected at least 1")
    findings, readable = inspect(source, columns=columns, kind_of_rows=rows), as_text(format)
    shared = None if against is None else overlap_with(source, columns, rows, against)
    extra = {} if shared is None else {"overlap": {task: found.to_dict() for task, found in shared.items()}}
    if model is None:
        if not readable:
            print_json(as_json(findings) | extra)
            return
        print(render(findings))
        if shared is not None:
            print(f"\n{overlap_table(shared)}")
        print(bullet("tokens are counted, and a --max_length is proposed, with --model NAME: what you will train"))
        return
    from simcse.data.lengths import cut_line, token_counts

    encoder = load_encoder(model, "cpu", "fp32")
    tokens = token_counts({column.name: column.sample for column in findings.columns}, encoder.tokenizer)
    filled = {name: lengths for name, lengths in tokens.items() if len(lengths)}
    line = cut_line(filled, max_length, encoder.backbone_limit, findings.rows, always_propose=True) if filled else None
    if not readable:
        print_json(as_json(findings, tokens) | {"max_length": line} | extra)
        return
    print(render(findings, tokens))
    if shared is not None:
        print(f"\n{overlap_table(shared)}")
    if line is not None:
        print(bullet(line))


def overlap_with(source: str, columns: list[str] | None, rows: str, against: str) -> dict[str, Overlap]:
    """What of the seven STS tasks in a folder, or of a file of scored pairs, stands in a training file."""
    from simcse.data.groups import group_rows
    from simcse.data.readers import read_scored_pairs, read_training
    from simcse.evaluation.contamination import overlaps
    from simcse.evaluation.sts import SEVEN, load_task

    if Path(against).is_dir():
        tests = {task: load_task(task, against) for task in SEVEN}
    else:
        tests = {Path(against).name: [read_scored_pairs(against)]}
    if rows == "any_two":
        grouped = ((text for text in row if isinstance(text, str)) for _, row in group_rows(Path(source), columns))
        return overlaps(map(list, grouped), tests)
    training = read_training(source, columns=columns, blank_lines="skip")
    return overlaps((row for table in training.iter(1000) for row in zip(*table.values(), strict=True)), tests)


def overlap_table(shared: dict[str, Overlap]) -> str:
    """The counts, a row a test set."""
    from simcse.display.tables import Table, number, terminal

    names = ["test set", "pairs", "whole pairs seen", "a sentence seen", "normalized", "or near"]
    rows = [[task, *map(number, found.to_dict().values())] for task, found in shared.items()]
    return terminal(Table(names, rows, "test pairs in the training file"))


def mine(
    pairs: str,
    *,
    model: str,
    output: str,
    columns: list[str] | None = None,
    corpus: str | None = None,
    count: int = 1,
    margin: float = 0.05,
    duplicate: float = 0.95,
    candidates: int = 100,
    kind: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Find hard negatives for pairs, and write triplets to train on.

    For each pair, the texts closest to the anchor that are no answer of it: with a cosine below the positive's by a
    margin, and no near-duplicate. The output is a csv with header sent0,sent1,hard_neg, a line for each negative, as
    simcse train reads it.

    Args:
        pairs: two columns of text, anchor and positive: csv, tsv, jsonl or parquet
        model: folder of a checkpoint, hub id, or package:NAME
        output: the csv file to write
        columns: names of the two columns; default all of the file's
        corpus: file of texts to draw negatives from; default the positives
        count: negatives for each pair
        margin: a negative's cosine is below positive - margin * |positive|
        duplicate: cosine from which two texts count as the same
        candidates: nearest texts looked at for each anchor
        kind: of the index, as for index build
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.data.readers import read_texts
    from simcse.files import check_writable
    from simcse.search.tools.mine import Mined, check_numbers, mine_negatives, read_pairs, write_triplets

    if not output.endswith(".csv"):
        raise ConfigError(f"--output: found {output}, expected a name that ends in .csv")
    check_numbers(count, margin, candidates, kind)
    check_writable(output)
    known = read_pairs(pairs, columns)
    others = read_texts(corpus) if corpus is not None else None
    encoder, mined = load_encoder(model, device, dtype), Mined()
    triplets = mine_negatives(
        known, encoder, corpus=others, count=count, margin=margin, duplicate=duplicate, candidates=candidates,
        kind=kind, mined=mined, show_progress=sys.stderr.isatty(),
    )  # fmt: skip
    write_triplets(output, triplets, pairs)
    print(f"{output}: {mined.in_words(count)}", file=sys.stderr)


def score_pairs(
    inputs: list[str],
    *,
    model: list[str],
    output: str,
    weights: list[float] | None = None,
    count: int = 100_000,
    neighbors: int = 300,
    cache: str = "runs/teacher",
    seed: int = 42,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Score pairs of texts, near and far, by larger encoders, to train a small one.

    Each of --count texts is paired with one of its --neighbors nearest, which ranks evenly from the first to the last
    power of two. The score is the encoders' cosine, a weighted mean of several. The output is a csv with header
    sentence1,sentence2,score: a source with rows: scored for simcse train. Vectors are kept, so that what is stopped
    goes on.

    Args:
        inputs: files of texts: txt, csv, tsv, jsonl, parquet, of all whose columns the texts are taken; standard input
            where none is named
        model: one or several encoders: a folder of a checkpoint, hub id, or package:NAME
        output: the csv file to write
        weights: of the models' cosines, a number for each; default equal. Where the cosines of one model lie close to
            each other, as those of E5 do, give it more
        count: texts that are paired, drawn at random
        neighbors: how many of a text's nearest are drawn from
        cache: folder for the vectors
        seed: of the draws
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.data.groups import all_texts
    from simcse.display.progress import progress
    from simcse.files import check_writable
    from simcse.search.tools.scored_pairs import check_draw, digest_of, scored_pairs, write_scored_pairs
    from simcse.training.teacher import kept_vectors

    if not output.endswith(".csv"):
        raise ConfigError(f"--output: found {output}, expected a name that ends in .csv")
    shares = check_draw(weights, len(model), count, neighbors)
    check_writable(output)
    files = sources(inputs)
    texts = [text for text in dict.fromkeys(itertools.chain(*map(all_texts, files))) if text.strip()]
    if len(texts) < 2:
        raise DataError(f"{', '.join(files)}: found {len(texts)} texts, expected two or more")
    vectors = []
    for name in model:
        encoder = load_encoder(name, device, dtype)
        vectors.append(kept_vectors(encoder, texts, len(texts), digest_of(texts), Path(cache), ", ".join(files)))
    with progress(min(count, len(texts)), sys.stderr.isatty(), "pairing") as advance:
        pairs = scored_pairs(vectors, shares, count, neighbors=neighbors, seed=seed, advance=advance)
        written = write_scored_pairs(output, texts, pairs)
    print(f"{output}: {written:,} pairs of {len(texts):,} texts", file=sys.stderr)


def paraphrases(
    inputs: list[str],
    *,
    model: str,
    count: int = 500,
    min_score: float | None = None,
    column: str | None = None,
    id_column: str | None = None,
    format: Format = "auto",
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Find the most similar pairs of texts in files.

    All pairs are compared, so what is found is exact, and a hundred thousand texts need minutes. On a terminal a pair
    is two lines: cosine, id and text, and the other ones. Else it is a line of JSON: {"score": ..., "a": {"id": ...,
    "text": ...}, "b": {...}}. An id is that of the file, or the number of the row from 0 on.

    Args:
        inputs: files of texts: txt, csv, tsv, jsonl, parquet; standard input where none is named
        model: folder of a checkpoint, hub id, or package:NAME
        count: the most pairs
        min_score: the least cosine of a pair
        column: the column that holds the text; default text, or the only one
        id_column: the column that holds the id; default id or _id
        format: text, or json; auto is text on a terminal, and json where output is piped
        device: auto, cpu, cuda, cuda:1, ...
        dtype: precision: auto (bf16 where the device computes in it, else fp32), fp32, bf16, fp16, int8 (AVX2, AMX)
    """
    from simcse.data.readers import read_identified
    from simcse.search.tools.paraphrases import paraphrases as found

    files = sources(inputs)
    if count < 1:
        raise ConfigError(f"count: found {count}, expected a number of pairs from 1 on")
    rows = itertools.chain(*[read_identified(file, column=column, id_column=id_column) for file in files])
    kept = [(number if key is None else key, text) for number, (key, text) in enumerate(rows) if text.strip()]
    if len(kept) < 2:
        raise DataError(f"{', '.join(files)}: found {len(kept)} texts, expected two or more")
    encoder, shown = load_encoder(model, device, dtype), sys.stderr.isatty()
    pairs = found([text for _, text in kept], encoder, count=count, min_score=min_score, show_progress=shown)
    for score, *both in pairs:
        if as_text(format):
            print(*pair_lines(score, [kept[row] for row in both], shutil.get_terminal_size((80, 24)).columns), sep="\n")
        else:
            a, b = ({"id": kept[row][0], "text": kept[row][1]} for row in both)
            print_json({"score": round(score, SCORE_DIGITS), "a": a, "b": b})
    print(f"{', '.join(files)}: {len(pairs)} pairs of {len(kept)} texts", file=sys.stderr)


def dedup(index: str, *, threshold: float = 0.95, delete: bool = False, format: Format = "auto") -> None:
    """Find near-duplicates in an index.

    Prints a line for each text that has any; as JSON {"keep": id, "duplicates": [{"id": ..., "score": ...}, ...]}. The
    first text of a group is kept; each duplicate is at least as close to it as the threshold.

    Args:
        index: folder of the index
        threshold: the least cosine of a duplicate
        delete: delete the duplicates from the index
        format: text, or json; auto is text on a terminal, and json where output is piped
    """
    from simcse.display.progress import progress
    from simcse.search.index import SearchIndex
    from simcse.search.tools.duplicates import near_duplicates

    opened = SearchIndex.load(index)
    total, gone, readable = len(opened), [], as_text(format)
    with progress(total, sys.stderr.isatty(), "comparing") as advance:
        for kept, duplicates in near_duplicates(opened, threshold, advance=advance):
            if readable:
                near = ", ".join(f"{key} ({score:.4f})" for key, score in duplicates)
                print(textwrap.fill(f"{kept}: {near}", WIDTH, subsequent_indent="  "))
            else:
                print_json({"keep": kept, "duplicates": scores_as_json(duplicates)})
            gone += [key for key, _ in duplicates]
    if delete and gone:
        opened.delete(gone)
    did = "deleted" if delete else "found"
    print(f"{index}: {did} {len(gone)} near-duplicates among {total} texts", file=sys.stderr)


def cluster(
    index: str,
    *,
    method: Literal["kmeans", "communities"] = "kmeans",
    clusters: int | None = None,
    iterations: int = 25,
    seed: int = 0,
    threshold: float = 0.75,
    min_size: int = 10,
    format: Format = "auto",
) -> None:
    """Group the texts of an index.

    Prints size and examples of each cluster, the largest first; as JSON {"cluster": 0, "size": ..., "examples": [...],
    "members": [{"id": ..., "score": ...}, ...]} a line, members closest to the centre first.

    Args:
        index: folder of the index
        method: kmeans puts each text in one of so many clusters; communities finds those of texts that are close to one
            of them, however many there are, and leaves other texts out
        clusters: how many, of kmeans
        iterations: of kmeans
        seed: of the start of kmeans
        threshold: the least cosine of a member with the centre of a community
        min_size: the fewest members of a community
        format: text, or json; auto is text on a terminal, and json where output is piped
    """
    from simcse.display.progress import progress
    from simcse.search.index import SearchIndex
    from simcse.search.tools import clusters as grouping

    if (clusters is None) == (method == "kmeans"):
        raise ConfigError(
            f"clusters: --method {method} {'needs' if clusters is None else 'finds'} the number of clusters"
        )
    opened, shown = SearchIndex.load(index), sys.stderr.isatty()
    if clusters is not None:
        with progress(iterations, shown, "k-means", "iterations") as advance:
            groups = grouping.cluster(opened, clusters, iterations=iterations, seed=seed, advance=advance)
    else:
        with progress(2 * len(opened), shown, "comparing", "rows") as advance:
            groups = grouping.communities(opened, threshold, min_size=min_size, advance=advance)
    readable = as_text(format)
    for number, group in enumerate(groups):
        members = scores_as_json(group.members)
        if readable:
            print(f"{len(members)} texts", *(textwrap.shorten(text, WIDTH - 2) for text in group.examples), sep="\n  ")
        else:
            print_json({"cluster": number, "size": len(members), "examples": group.examples, "members": members})
    inside = sum(len(group.members) for group in groups)
    print(f"{index}: {len(groups)} clusters of {inside} among {len(opened)} texts", file=sys.stderr)
