//! The real log, and what is true of it. It lies outside the repository: in the directory that `INDELIBLE_DATA` names, or in
//! `shared/data` beside one of those that hold this package.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    thread,
};

/// The log, and the answers as JSON. Where they aren't, that the test is skipped is said, also in the file that
/// `INDELIBLE_SKIPS` names, so that skips are counted.
pub fn log() -> Option<(PathBuf, String)> {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("shared/data"));
    let dir = match env::var_os("INDELIBLE_DATA") {
        Some(dir) => Some(dir.into()),
        None => here().find(|dir| dir.join("permits.jsonl").exists()),
    };
    if let Some(dir) = dir {
        let facts = fs::read_to_string(dir.join("permits.facts.json")).expect("the answers are beside the log");
        return Some((dir.join("permits.jsonl"), facts.trim_end().to_owned()));
    }
    let name = thread::current().name().unwrap_or("a test").to_owned();
    println!("SKIP: {name}: there is no shared/data/permits.jsonl");
    if let Some(skips) = env::var_os("INDELIBLE_SKIPS") {
        let mut skips = fs::File::options().create(true).append(true).open(skips).expect("a file that can be written");
        writeln!(skips, "{name}").expect("a file that can be written");
    }
    None
}
