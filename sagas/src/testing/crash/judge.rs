//! Whether a run went well, whatever happened in it.

use std::collections::BTreeSet;

use super::{
    End,
    run::{Member, Run, child},
};
use crate::{Act, AgendaModel, Outcome, Saga, SagaEvent, Sagas, Standing, past::Way, testing::check_recorded};

pub(super) fn end<S: Saga>(saga: &Member<S>, brought: Vec<String>) -> End {
    let tracks = saga.journal.past().tracks.iter();
    End {
        standing: saga.journal.standing(),
        steps: tracks.map(|t| (t.step.clone(), t.way.clone(), t.undo.as_ref().map(|(_, way)| way.clone()))).collect(),
        happened: brought.into_iter().collect(),
    }
}

/// What is wrong with a saga of a run.
pub(super) async fn faults<S: Saga, M: AgendaModel>(
    run: &Run<'_, S, M>,
    saga: &Member<S>,
    brought: &[String],
) -> Vec<String> {
    let mut faults = Vec::new();
    let happened: BTreeSet<&str> = brought.iter().map(String::as_str).collect();
    if happened.len() < brought.len() {
        faults.push(format!("commands came twice: {brought:?}"));
    }
    let known = run.outside.happened();
    if let Some(unknown) = happened.iter().find(|key| !known.contains(**key)) {
        faults.push(format!("{unknown} is in the log, and did not happen"));
    }
    let events: Vec<SagaEvent> = saga.events.iter().map(|(_, event)| event.clone()).collect();
    faults.extend(check_recorded::<S>(&events).err().map(|diverges| diverges.to_string()));
    faults.extend(twice(&events));
    faults.extend(out_of_order(saga, &events));
    if saga.journal.standing() == Standing::Ended(Outcome::Compensated) {
        faults.extend(wrongly_undone(saga));
        faults.extend(left_behind(saga, &happened));
    }
    if let Standing::Ended(_) = saga.journal.standing() {
        let left = run.clerk().await.due().await.unwrap_or_default();
        let mine = left.iter().filter(|entry| entry.saga == saga.id);
        faults.extend(mine.map(|entry| format!("it has ended, and {entry:?} is left in the agenda")));
    }
    for track in &saga.journal.past().tracks {
        let undone = matches!(&track.undo, Some((_, Way::Done { .. })));
        if undone && run.scenario.children.contains_key(&track.step) {
            let child = Sagas::<S>::new(&run.store).load(&child(&saga.id, &track.step)).await;
            let standing = child.map(|child| child.standing());
            if !matches!(standing, Ok(Standing::NotStarted | Standing::Ended(Outcome::Compensated))) {
                faults.push(format!("{} is undone, and its child is {standing:?}", track.step));
            }
        }
    }
    faults.into_iter().map(|fault| format!("{}: {fault}", saga.id)).collect()
}

/// What a journal tells twice, and may once: that a step is done, undone, or has waited too long.
fn twice(events: &[SagaEvent]) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut twice = Vec::new();
    for event in events {
        let (what, step) = match event {
            SagaEvent::StepDone { step, .. } => ("done", step),
            SagaEvent::StepStarted { step, .. } => ("started", step),
            SagaEvent::UndoStarted { step, .. } => ("to be undone", step),
            SagaEvent::Undone { step } => ("undone", step),
            SagaEvent::TimedOut { step } => ("timed out", step),
            // Its time runs anew.
            SagaEvent::Retried { step, .. } => {
                told.remove(&("timed out", step.clone()));
                continue;
            }
            _ => continue,
        };
        if !told.insert((what, step.clone())) {
            twice.push(format!("{step} is {what} twice"));
        }
    }
    twice
}

/// Steps are undone in the reverse of the order in which they began.
fn out_of_order<S: Saga>(saga: &Member<S>, events: &[SagaEvent]) -> Option<String> {
    let began = |of: &str| saga.journal.past().tracks.iter().position(|track| track.step == of);
    let undone = events.iter().filter_map(|event| match event {
        SagaEvent::UndoStarted { step, .. } => began(step),
        _ => None,
    });
    let undone: Vec<usize> = undone.collect();
    (!undone.is_sorted_by(|one, next| one > next)).then(|| format!("steps were undone in the order {undone:?}"))
}

/// Steps that are undone though they can't have happened, or the other way round.
fn wrongly_undone<S: Saga>(saga: &Member<S>) -> Vec<String> {
    let Some(about) = saga.journal.about() else { return Vec::new() };
    let plan = about.plan(saga.journal.past());
    let wrong = saga.journal.past().tracks.iter().filter_map(|track| {
        let has_undo = plan.find(&track.step).is_some_and(|step| step.undo.is_some());
        let (expected, found) = (track.may_have_happened() && has_undo, track.undo.is_some());
        (expected != found).then(|| format!("{} ended as {:?}, undone: {found}", track.step, track.way))
    });
    wrong.collect()
}

/// Steps that happened outside, and were not undone there though they can be. What an operator left out is known to be.
fn left_behind<S: Saga>(saga: &Member<S>, happened: &BTreeSet<&str>) -> Vec<String> {
    let Some(about) = saga.journal.about() else { return Vec::new() };
    let plan = about.plan(saga.journal.past());
    let has = |step: &str, act| happened.contains(Sagas::<S>::key(&saga.id, step, act).as_str());
    let skipped = |step: &str| {
        let track = saga.journal.past().track(step);
        track.is_some_and(|track| track.way == Way::Skipped || matches!(track.undo, Some((_, Way::Skipped))))
    };
    let undoable = plan.steps().filter(|step| step.undo.is_some()).map(|step| step.name.as_ref());
    let left = undoable.filter(|step| has(step, Act::Do) && !has(step, Act::Undo) && !skipped(step));
    left.map(|step| format!("{step} happened outside, and was not undone there")).collect()
}

/// An event by its type; of those with a time to wait for, that.
pub(super) fn name(event: &SagaEvent) -> &'static str {
    match event {
        SagaEvent::StepStarted { task: crate::Task::SleepMs(_) | crate::Task::Until(_), .. } => "timer",
        SagaEvent::Started { .. } => "Started",
        SagaEvent::StepStarted { .. } => "StepStarted",
        SagaEvent::AttemptFailed { .. } => "AttemptFailed",
        SagaEvent::StepDone { .. } => "StepDone",
        SagaEvent::StepFailed { .. } => "StepFailed",
        SagaEvent::TimedOut { .. } => "TimedOut",
        SagaEvent::Stopping { .. } => "Stopping",
        SagaEvent::Signalled { .. } => "Signalled",
        SagaEvent::Cancelled { .. } => "Cancelled",
        SagaEvent::Compensating { .. } => "Compensating",
        SagaEvent::UndoStarted { .. } => "UndoStarted",
        SagaEvent::Undone { .. } => "Undone",
        SagaEvent::UndoFailed { .. } => "UndoFailed",
        SagaEvent::NeedsIntervention { .. } => "NeedsIntervention",
        SagaEvent::Retried { .. } => "Retried",
        SagaEvent::Skipped { .. } => "Skipped",
        SagaEvent::Ended { outcome: Outcome::GivenUp { .. } } => "given up",
        SagaEvent::Ended { .. } => "Ended",
    }
}
