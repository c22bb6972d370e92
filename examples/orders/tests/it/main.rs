//! Both forms, killed at random moments while they run, come to books that balance.

use std::{
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use rand::Rng;

fn balances_though_killed(form: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut orders = Command::new(env!("CARGO_BIN_EXE_orders"));
    orders.arg(dir.path()).args(["--count", "60"]).args(form).stdout(Stdio::null());
    for _ in 0..4 {
        let mut running = orders.spawn().unwrap();
        sleep(Duration::from_millis(rand::rng().random_range(50..900)));
        let _ = running.kill();
        running.wait().unwrap();
    }
    let output = orders.stdout(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("money, stock and shipments agree"), "{said}");
}

#[test]
fn orchestrated_orders_balance_though_killed() {
    balances_though_killed(&[]);
}

#[test]
fn choreographed_orders_balance_though_killed() {
    balances_though_killed(&["--choreographed"]);
}
