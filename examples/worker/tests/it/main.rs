//! The process from outside: what it is told, and what it does without a database. `demo` shows it with one.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

fn worker(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.env_clear().envs(variables.iter().copied());
    command
}

/// Nothing listens there.
const NOWHERE: &str = "postgresql://nobody:secret@127.0.0.1:1/nothing";

#[test]
fn what_makes_no_sense_is_refused_by_its_name() {
    let refused = |variables: &[(&str, &str)], name: &str| {
        let told = worker(variables).output().unwrap();
        let error = String::from_utf8(told.stderr).unwrap();
        assert_eq!(told.status.code(), Some(2), "{error}");
        assert!(error.contains(name) && !error.contains("secret"), "{error}");
    };
    refused(&[], "DATABASE_URL");
    let wrong = [
        ("WORKER_LISTEN", "somewhere"),
        ("WORKER_LEASE_SECONDS", "0"),
        ("WORKER_DRAIN_SECONDS", "soon"),
        ("WORKER_NAME", ""),
        ("BANK_DATA", ""),
    ];
    for (name, value) in wrong {
        refused(&[("DATABASE_URL", NOWHERE), (name, value)], name);
    }
}

#[test]
fn with_nobody_there_it_ends_and_says_why() {
    let told = worker(&[("DATABASE_URL", NOWHERE), ("WORKER_LISTEN", "127.0.0.1:0")]).output().unwrap();
    let error = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(1), "{error}");
    assert!(error.contains("the log can't be opened") && !error.contains("secret"), "{error}");
}

#[test]
fn while_its_database_is_silent_it_lives_is_not_ready_and_ends_when_it_is_told() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // lets it connect, and says nothing
    let url = format!("postgresql://nobody@{}/nothing", silent.local_addr().unwrap());
    let variables = [("DATABASE_URL", url.as_str()), ("WORKER_LISTEN", "127.0.0.1:0")];
    let mut process = worker(&variables).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let address = said.trim().strip_prefix("listening at ").unwrap();
    let status = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!([status("/live"), status("/ready"), status("/metrics"), status("/")], ["200", "503", "200", "404"]);
    assert_eq!([status("/views"), status("/views/balances/letters")], ["503", "503"]);
    let told = Instant::now();
    kill_process(Pid::from_raw(process.id() as i32).unwrap(), Signal::TERM).unwrap();
    assert!(process.wait().unwrap().success());
    assert!(told.elapsed() < Duration::from_secs(5));
}
