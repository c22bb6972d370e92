//! A PostgreSQL server of our own: made from the binaries on this machine in a directory that goes with it, on a socket
//! and a port that nobody else knows. Durable as in production, small otherwise.
//!
//! Tests that need no say over the server share one, or use that of `DATABASE_URL`, each in a schema of its own. Without
//! binaries and without a URL they fail. `INDELIBLE_POOLED` puts a pooler in transaction mode before each server of our own.

use std::{
    env, fs,
    io::Write,
    iter,
    os::unix::{
        fs::{self as unix, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A server, which ends with this, or with the process.
pub(crate) struct Cluster {
    dir: TempDir,
    port: u16,
    /// Kills the server, and removes its directory, as soon as its input ends.
    guard: Child,
    /// What all go through, where that is wanted.
    pooler: Option<Pooler>,
}

impl Cluster {
    /// Makes a cluster and starts it, with these lines in its configuration beside ours.
    pub(crate) fn start(configuration: &str) -> Self {
        Self::start_in(&env::temp_dir(), configuration)
    }

    /// The same on a file system of its own.
    pub(crate) fn start_on(disk: &Disk, configuration: &str) -> Self {
        Self::start_in(disk.0.path(), configuration)
    }

    fn start_in(place: &Path, configuration: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("indelible-pg-").tempdir_in(place).unwrap();
        own(dir.path());
        let data = dir.path().join("data");
        run(Command::new(binary("initdb")).arg("-D").arg(&data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        ]));
        let port = free_port();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nmax_connections = 200\n\
             shared_buffers = 64MB\nlogging_collector = off\nlog_line_prefix = '%m [%p] '\n{configuration}\n",
            dir.path().display()
        );
        let file = data.join("postgresql.conf");
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, before + &settings).unwrap();
        let mut cluster = Self { guard: guard(dir.path()), dir, port, pooler: None };
        cluster.launch();
        cluster.pooler = env::var_os("INDELIBLE_POOLED").map(|_| Pooler::before(&cluster));
        cluster
    }

    pub(crate) fn url(&self) -> String {
        self.pooler.as_ref().map_or_else(|| self.direct_url(), Pooler::url)
    }

    /// Past the pooler, where there is one.
    pub(crate) fn direct_url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What the server has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn launch(&mut self) {
        let (data, log) = (self.data(), self.dir.path().join("log"));
        run(Command::new(binary("pg_ctl")).args(["start", "-W", "-s", "-D"]).arg(data).arg("-l").arg(log));
        self.wait("the server does not start", || self.is_ready());
    }

    /// Starts it again where a fault has ended it.
    pub(crate) fn launch_if_down(&mut self) {
        let is_up = run_status(Command::new(binary("pg_ctl")).args(["status", "-D"]).arg(self.data()));
        if is_up {
            self.wait("the server does not recover", || self.is_ready());
        } else {
            self.launch();
        }
    }

    fn is_ready(&self) -> bool {
        run_status(Command::new(binary("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]))
    }

    /// Stops it as a crash would: nothing is written any more, connections are cut. Then starts it again.
    pub(crate) fn crash_and_launch(&mut self) {
        let lock = self.data().join("postmaster.pid");
        run(Command::new(binary("pg_ctl")).args(["stop", "-m", "immediate", "-W", "-s", "-D"]).arg(self.data()));
        self.wait("the server does not stop", || !lock.exists());
        self.launch();
    }

    /// Kills all of its processes, and starts it again.
    pub(crate) fn kill_and_launch(&mut self) {
        let dead = self.signal("KILL").join(",");
        // Nobody may be there to take note of their deaths.
        let states = || Command::new("ps").args(["-o", "stat=", "-p", &dead]).output().unwrap().stdout;
        self.wait("killed processes live", || {
            String::from_utf8(states()).unwrap().lines().all(|it| it.starts_with('Z'))
        });
        let socket = self.dir.path().join(format!(".s.PGSQL.{}.lock", self.port));
        for lock in [self.data().join("postmaster.pid"), socket] {
            fs::remove_file(lock).unwrap();
        }
        self.launch();
    }

    /// Kills one of the processes that serve connections: the server ends all others then, and recovers by itself.
    pub(crate) fn kill_one(&self) {
        let children = Command::new("pgrep").args(["-P", &self.server(), "-f", "127.0.0.1"]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        // The first one stays.
        let one = children.lines().next().expect("somebody is connected");
        run(Command::new("kill").args(["-KILL", one]));
    }

    /// The process that all others are children of.
    fn server(&self) -> String {
        let lock = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        lock.lines().next().unwrap().to_owned()
    }

    /// Stops all of its processes where they are, as a machine does that hangs; the kernel goes on taking connections.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Which processes got it.
    fn signal(&self, signal: &str) -> Vec<String> {
        let server = self.server();
        // So that it starts no others meanwhile.
        run(Command::new("kill").args(["-STOP", &server]));
        let children = Command::new("pgrep").args(["-P", &server]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let all: Vec<String> = iter::once(server).chain(children.lines().map(Into::into)).collect();
        // One of them may have ended by itself.
        run_status(Command::new("kill").arg(format!("-{signal}")).args(&all));
        all
    }

    fn wait(&self, what: &str, is_done: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !is_done() {
            assert!(Instant::now() < until, "{what}: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Cluster {
    /// Writes a file beside the configuration.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let file = self.data().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        own(&file);
    }

    /// Lets it read them again.
    pub(crate) fn reload(&self) {
        run(Command::new(binary("pg_ctl")).args(["reload", "-s", "-D"]).arg(self.data()));
    }

    /// Another server with what this one holds now: one that was made from its files while it was stopped.
    pub(crate) fn keep_files(&mut self) -> PathBuf {
        let kept = self.dir.path().join("kept");
        run(Command::new(binary("pg_ctl")).args(["stop", "-m", "fast", "-w", "-s", "-D"]).arg(self.data()));
        run(Command::new("cp").arg("-a").arg(self.data()).arg(&kept));
        self.launch();
        kept
    }

    /// Goes back to files that were kept, as whoever restores a backup does.
    pub(crate) fn restore(&mut self, kept: &Path) {
        run(Command::new(binary("pg_ctl")).args(["stop", "-m", "immediate", "-w", "-s", "-D"]).arg(self.data()));
        run(Command::new("rm").arg("-rf").arg(self.data()));
        run(Command::new("cp").arg("-a").arg(kept).arg(self.data()));
        self.launch();
    }

    /// A streaming replica of this server.
    pub(crate) fn replica(&self, configuration: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("indelible-pg-").tempdir().unwrap();
        own(dir.path());
        let port = free_port();
        let data = dir.path().join("data");
        let primary = format!("host=127.0.0.1 port={} user=postgres application_name=standby", self.port);
        run(Command::new(binary("pg_basebackup"))
            .args(["-R", "-c", "fast", "-X", "stream", "-d", &primary, "-D"])
            .arg(&data));
        let file = data.join("postgresql.conf");
        let before = fs::read_to_string(&file).unwrap();
        let sockets = dir.path().display();
        let settings = format!("port = {port}\nunix_socket_directories = '{sockets}'\n{configuration}\n");
        fs::write(&file, before + &settings).unwrap();
        let mut replica = Self { guard: guard(dir.path()), dir, port, pooler: None };
        replica.launch();
        replica
    }

    /// Makes a replica the primary.
    pub(crate) fn promote(&self) {
        run(Command::new(binary("pg_ctl")).args(["promote", "-w", "-s", "-D"]).arg(self.data()));
    }

    /// Stops it as a crash would, for good.
    pub(crate) fn kill(&mut self) {
        run(Command::new(binary("pg_ctl")).args(["stop", "-m", "immediate", "-w", "-s", "-D"]).arg(self.data()));
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// A small file system in memory, which ends with this.
pub(crate) struct Disk(TempDir);

impl Disk {
    /// Of so many mebibytes; for root alone.
    pub(crate) fn new(mebibytes: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("indelible-disk-").tempdir().unwrap();
        let size = format!("size={mebibytes}m,mode=777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        assert!(mounted.unwrap().success(), "a file system in memory can be mounted");
        Self(dir)
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        for size in [1 << 20, 4_096, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// pgbouncer in transaction mode before a server, as long as this lives.
pub(crate) struct Pooler {
    /// Goes with it.
    _dir: TempDir,
    port: u16,
    process: Child,
}

impl Pooler {
    pub(crate) fn before(cluster: &Cluster) -> Self {
        let dir = tempfile::Builder::new().prefix("indelible-pooler-").tempdir().unwrap();
        own(dir.path());
        let (port, server) = (free_port(), cluster.port);
        let file = dir.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 8\n\
             max_client_conn = 2000\nserver_login_retry = 1\n"
        );
        fs::write(&file, settings).unwrap();
        // It ends with the shell's input, so with this process too.
        let mut command = Command::new("sh");
        command
            .args(["-c", "\"$1\" -q \"$2\" 2>/dev/null & read -r _; kill $!", "sh"])
            .arg(binary("pgbouncer"))
            .arg(&file);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        if let Some((user, group)) = unprivileged() {
            command.uid(user).gid(group);
        }
        let process = command.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "pgbouncer does not start");
            thread::sleep(Duration::from_millis(5));
        }
        Self { _dir: dir, port, process }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A shell that outlives this process by as much as it takes to stop the server.
fn guard(dir: &Path) -> Child {
    let script = r#"read -r _; pid=$(head -1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid"
        n=0; while [ -e "$1/data/postmaster.pid" ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; rm -rf "$1""#;
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", script, "sh"]).arg(dir).stdin(Stdio::piped());
    command.spawn().expect("a shell that guards the server")
}

/// The server refuses to run as root.
fn unprivileged() -> Option<(u32, u32)> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !is_root {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(user("postgres").or_else(|| user("nobody")).expect("a user who is not root"))
}

fn own(dir: &Path) {
    if let Some((user, group)) = unprivileged() {
        unix::chown(dir, Some(user), Some(group)).unwrap();
    }
}

fn binary(name: &str) -> PathBuf {
    let mut places: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    places.push("/usr/sbin".into());
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    versions.sort();
    places.extend(versions.into_iter().rev());
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("this machine has no {name}: install postgresql and pgbouncer"))
}

fn run(command: &mut Command) {
    assert!(run_status(command), "{command:?} failed");
}

fn run_status(command: &mut Command) -> bool {
    if let Some((user, group)) = unprivileged() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command.status().unwrap_or_else(|error| panic!("{command:?}: {error}")).success()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The server that most tests share.
pub(crate) fn shared_url() -> String {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    match env::var("DATABASE_URL") {
        Ok(url) => url,
        Err(_) => SHARED.get_or_init(|| Some(Cluster::start(""))).as_ref().expect("it was started").url(),
    }
}

/// A name for a schema that nobody has used.
pub(crate) fn fresh_schema() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("test_{}_{}_{}", std::process::id(), now.as_nanos(), NEXT.fetch_add(1, Relaxed))
}
