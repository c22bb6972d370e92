//! A log whose answers are known, taken in by a program that is interrupted. Fails when an answer is another.

use std::io::Cursor;

use anyhow::{Result, ensure};
use indelible::AnyStore;

use crate::{
    generated::{self, Generated},
    import::{Imported, import},
    take_in,
    views::Views,
};

const CASES: u64 = 1_000;

pub async fn run(store: &AnyStore, views: &impl Views) -> Result<()> {
    let Generated { lines, imported: expected, facts: known } = generated::log(CASES)?;
    let log = |lines: &[String]| Cursor::new((lines.join("\n") + "\n").into_bytes());

    let running = views.worker(store).start().await?;
    let half = import(store, log(&lines[..lines.len() / 2]), |_, _| ()).await?;
    // What it has in hand is undone.
    drop(running);
    println!("Half of {} lines are read, and the worker is gone in the middle of its work.", lines.len());

    let (imported, facts) = take_in(store, views, log(&lines), Some(expected.bytes)).await?;
    println!("All over again: {imported}");
    let (appended, known_too) = (expected.appended - half.appended, expected.known + half.appended);
    ensure!(imported == Imported { appended, known: known_too, ..expected }, "it should be: {expected}");
    ensure!(facts == known, "the answers are not those that are known: {facts:?}, and not {known:?}");

    let (again, unchanged) = take_in(store, views, log(&lines), Some(expected.bytes)).await?;
    println!("And again:      {again}");
    ensure!(again.appended == 0 && unchanged == facts, "what was known has been added");
    print!("{facts}");
    Ok(())
}
