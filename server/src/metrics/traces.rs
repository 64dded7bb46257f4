//! What became of the spans of traced requests.

use super::page::{Page, Written, family};
use crate::traces::TraceFigures;

pub(super) fn write(page: &mut Page<'_>, figures: Option<TraceFigures>) -> Written {
    let outcomes = figures.into_iter().flat_map(|TraceFigures { exported, dropped, failed }| {
        [("exported", exported), ("dropped", dropped), ("failed", failed)]
    });
    page.counter(
        family("cube_trace_spans", "Spans of traced requests that ended, by what became of them"),
        outcomes.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count)),
    )
}
