"""What `eval RUN… DATA` answers: one predictor, or several together, against labelled rows."""

from dlkit.core.errors import DlkitError
from dlkit.core.reading import MULTI_LABEL, Reading
from dlkit.core.result import Result
from dlkit.data import ensemble, scores
from dlkit.data.ensemble import Ensemble
from dlkit.data.heldout import side_of_all


def evaluate(whole: Ensemble, source: str, reading: Reading, side: str = "all") -> Result:
    """Metrics of the predictor on a source's labelled rows; of each member too, where there are several.

    side  all, or of the source that the runs were trained on the rows they were validated on ('valid') or 'train'
    """
    if whole.is_clustering:
        raise DlkitError(
            f"{whole.members[0].name} is a run of cluster: there is no truth to compare its clusters with",
            "dlkit cluster --target COLUMN compares; dlkit predict says the cluster of each row",
        )
    rows = ensemble.labelled(source, whole, reading)
    if side != "all":
        rows = rows.take(side_of_all(whole.members, rows.table, side))
    each = whole.each(rows.table, reading)
    together = whole.together(each)
    if whole.task == "classification":
        result = scores.classified(rows.truth, together.argmax(1), together, whole.schema.classes)
    elif whole.task == MULTI_LABEL:
        result = scores.labelled(rows.truth, together > scores.THRESHOLD, together, whole.schema.classes)
    else:
        result = scores.regressed(rows.truth, together)
    if len(each) > 1:
        metric = result.headline
        alone = [ensemble.score(whole.task, rows.truth, one) for one in each]
        result.summary["runs"] = [{"run": m.name, metric: s} for m, s in zip(whole.members, alone, strict=True)]
        told = ", ".join(f"{m.name} {s:.4g}" for m, s in zip(whole.members, alone, strict=True))
        result.notes.append(f"{metric} of each run alone: {told}")
    result.notes[:0] = _warnings(whole, rows, source, side)
    return result


def _warnings(whole: Ensemble, rows: ensemble.Labelled, source: str, side: str) -> list[str]:
    """What to know before believing the score."""
    seen = [name for member in whole.members if (name := member.seen_by(rows.table))]
    notes = []
    if seen and side != "valid":
        held_out = all(member.run.command == "train" for member in whole.members)
        notes.append(
            f"{source} is what {', '.join(seen)} was trained on: most of these rows are known to it by heart, and "
            "the scores are better than they will be on others"
            + ("; --rows valid takes those held out" if held_out else "")
        )
    if seen and side == "valid":
        notes.append("the rows held out chose the best epoch: a file that no run has seen is a sterner judge")
    if rows.left_out:
        notes.append(f"left out {rows.left_out} rows whose {whole.schema.about} is missing")
    return notes
