//! What the index on the disk does not hold yet, compared as readers find it: in memory, through the live store.

use std::collections::VecDeque;

use indelible_core::{Direction, Position, QualifiedType, RecordedEvent, StoreError};

use super::{Part, Step, Verification, Watch};
use crate::{
    engine::{Fault, Tier, chain},
    index::Index,
    keys::Series,
    read::View,
    store::Shared,
};

/// So many events are looked at before others get a turn.
const BATCH: u64 = 256;

pub(super) fn compare(shared: &Shared, report: &mut Verification, watch: &mut Watch<'_>) -> Result<(), StoreError> {
    let indexed = report.indexed;
    let head = report.head.position;
    let mut from = indexed.plus(1);
    while from <= head {
        let to = from.plus(BATCH - 1).min(head);
        let wrong = shared.view(|view| {
            let mut wrong = Vec::new();
            for position in (from.get()..=to.min(view.head).get()).map(Position::new) {
                // What can't be read was told of in the walk over the log.
                let Ok(event) = view.event(position) else { continue };
                match look(view, &event, indexed, |part, what| wrong.push((part, what))) {
                    Err(Fault::Store(error @ StoreError::Corrupted { .. })) => wrong.push((Part::Index, chain(&error))),
                    looked => looked?,
                }
            }
            Ok(wrong)
        })?;
        wrong.into_iter().for_each(|(part, what)| report.problem(part, what));
        for position in from.get()..=to.get() {
            watch.tick(Step::Tail, position, head.get())?;
        }
        from = to.plus(1);
    }
    Ok(())
}

fn look(
    view: &View<'_>,
    event: &RecordedEvent,
    indexed: Position,
    mut wrong: impl FnMut(Part, String),
) -> Result<(), Fault> {
    let RecordedEvent { id, position, ref stream, version, .. } = *event;
    let mut missing = |what: String| wrong(Part::Index, format!("{what} at position {position} is missing"));
    if view.find(id)? != Some(position) {
        missing(format!("the id {id}"));
    }
    let spots = view.versions(stream, version, Direction::Forwards, 1)?;
    if spots.first().is_none_or(|(found, spot)| (*found, spot.position) != (version, position)) {
        missing(format!("version {version} of {stream}"));
    }
    let typed = QualifiedType { category: stream.category(), event_type: event.event_type.clone() };
    let series = [Series::category(stream.category_str()), Series::qualified(&typed)];
    for series in series.into_iter().chain(event.tags.iter().map(Series::tag)) {
        if view.segments.seek(series.as_bytes(), position, Direction::Forwards) == Some(position) {
            continue;
        }
        // It may have moved from there to here.
        let mut window = VecDeque::new();
        view.index().window(&series, position, Direction::Forwards, &mut window)?;
        if window.front() != Some(&position) {
            missing(series.as_bytes().escape_ascii().to_string());
        }
    }
    // Readers would find the last one only.
    if let Some(first) = Index::new(view.engine, Tier::Disk, indexed).find(id)? {
        wrong(Part::Log, format!("the events at positions {first} and {position} have the same id, {id}"));
    }
    Ok(())
}
