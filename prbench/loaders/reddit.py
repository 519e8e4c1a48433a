"""Reddit TL;DR comparisons: which of two summaries of a post a worker prefers.

Stiennon et al., "Learning to summarize from human feedback", NeurIPS 2020. The same few dozen workers judged about
90,000 pairs for training and as many for validation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder, Numbering, keep_frequent
from prbench.loaders.rows import records

FILES = ("comparisons/train/0000.parquet", "comparisons/validation/0000.parquet")
COLUMNS = ("info", "summaries", "choice", "worker", "batch")
CNN_DM = "cnndm"


class Vote(NamedTuple):
    """One row: the worker (None where unknown), the post (None for a news article) and its id, winner and loser."""

    worker: str | None
    key: str
    post: str | None
    chosen: str
    rejected: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RedditTLDR:
    """Loader of the TL;DR comparisons. The prompt is the post alone; summaries lose the space that they begin with.

    `cohort` says who the users are. "frequent": the workers with at least `min_comparisons` comparisons of TL;DR
    summaries, training and validation files together (Cai et al. 2026, section 5.1: at least 50 annotations, 40
    users). "both-files": the workers with a row in the training file and one in the validation file, news articles
    counted, which is what the published MRM code does; `min_comparisons` is not used then.

    Rows about CNN/Daily Mail articles have no post and are dropped. A group is a post: its id, and any other id with
    the same text. The mark is 0 for the training and 1 for the validation file. Notes and confidences are not read.
    """

    cohort: Literal["frequent", "both-files"] = "frequent"
    min_comparisons: Annotated[int, Field(ge=1)] = 50

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons, training file first. Raises InputError naming a file and row that is broken."""
        paths = [raw.path(path) for path in FILES]
        votes = [list(_votes(path, name)) for path in paths]
        both = {vote.worker for vote in votes[0]} & {vote.worker for vote in votes[1]}
        builder = Builder(
            "rows",
            "rows on CNN/DM articles dropped",
            "rows without a post dropped",
            "rows without a worker dropped",
            "rows with two equal summaries dropped",
        )
        counts: Counter[str] = builder.counts
        posts: Numbering[str] = Numbering()
        group_of: dict[str, Hashable] = {}
        for mark, part in enumerate(votes):
            for vote in part:
                counts["rows"] += 1
                if vote.post is None:
                    counts["rows on CNN/DM articles dropped"] += 1
                elif not vote.post.strip():
                    counts["rows without a post dropped"] += 1
                elif vote.worker is None:
                    counts["rows without a worker dropped"] += 1
                elif vote.chosen == vote.rejected:
                    counts["rows with two equal summaries dropped"] += 1
                elif self.cohort == "both-files" and vote.worker not in both:
                    counts["rows of workers in one file only dropped"] += 1
                else:
                    group = group_of.setdefault(vote.post, posts[vote.key])
                    builder.add(
                        vote.worker, as_context(vote.post), vote.chosen, vote.rejected, group=group, mark=mark
                    )
        data = builder.build(name, empty="the files hold no comparison of two summaries of a post")
        return keep_frequent(data, self.min_comparisons) if self.cohort == "frequent" else data


def _votes(path: Path, name: str) -> Iterator[Vote]:
    with progress() as display:
        task = display.add_task(f"reading {name}", total=None)
        for number, (where, record) in enumerate(records(path, COLUMNS, ())):
            if number % 1000 == 0:
                display.update(task, completed=number)
            yield _vote(record, where)


def _vote(record: dict[str, Any], where: str) -> Vote:
    info, summaries, choice, worker = (record[column] for column in COLUMNS[:4])
    if not isinstance(info, dict) or not {"id", "post"} <= info.keys():
        raise InputError(f"{where}: info has no id and no post")
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise InputError(f"{where}: summaries are not a list of two")
    texts = [summary.get("text") if isinstance(summary, dict) else None for summary in summaries]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: a summary has no text")
    if choice not in (0, 1):
        raise InputError(f"{where}: choice is {choice!r}, expected 0 or 1")
    if not isinstance(worker, str | None):
        raise InputError(f"{where}: worker is not a text")
    news = CNN_DM in str(record["batch"]) or (info["post"] is None and info.get("article") is not None)
    post = None if news else str(info["post"] or "")
    return Vote(worker or None, str(info["id"]), post, texts[choice].strip(), texts[1 - choice].strip())
