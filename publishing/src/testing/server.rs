//! A NATS server of a test's own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A NATS server with JetStream, in a directory and on a port of its own. It is killed with this, and with the process.
#[derive(Debug)]
pub struct NatsServer {
    dir: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl NatsServer {
    /// Starts one in this directory.
    ///
    /// # Panics
    /// Where `nats-server` is not installed, or does not start.
    pub fn start(dir: impl Into<PathBuf>) -> Self {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a port").port();
        let mut server = Self { dir: dir.into(), port, process: None };
        server.launch();
        server
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Its guard kills it when the input ends.
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }

    /// Removes all that it has stored. It must not run.
    ///
    /// # Panics
    /// Where that can't be removed.
    pub fn lose_all(&mut self) {
        assert!(self.process.is_none(), "it runs");
        std::fs::remove_dir_all(self.dir.join("data")).expect("its directory");
    }

    /// Starts it again, where it was killed.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn launch(&mut self) {
        let guarded = "\"$@\" >>\"$LOG\" 2>&1 & server=$!; cat >/dev/null; kill -9 $server; wait $server";
        let mut command = Command::new("sh");
        command.args(["-c", guarded, "guard"]).arg(program()).args(["-a", "127.0.0.1", "-p", &self.port.to_string()]);
        command.arg("-js").arg("-sd").arg(self.dir.join("data"));
        command.env("LOG", self.dir.join("log")).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("a shell"));
        let (address, until) =
            (SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), Instant::now() + Duration::from_secs(60));
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "the server does not start: {}", log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Debian keeps servers where no path of a user leads.
fn program() -> &'static str {
    let aside = "/usr/sbin/nats-server";
    if Path::new(aside).exists() { aside } else { "nats-server" }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}
