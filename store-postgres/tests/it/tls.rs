//! TLS and secrets: who asks for TLS gets it, from the server that was meant and nobody else; and no password is told,
//! whatever goes wrong.

use std::{
    fmt,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use indelible_core::{EventStore, StoreError};
use indelible_postgres::{OpenError, PostgresStore};
use tempfile::TempDir;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    cluster::Cluster,
    writing::{SOON, append, appended, client},
};

const SECRET: &str = "hidden-word";

fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(dir).stderr(Stdio::null()).stdout(Stdio::null());
    assert!(command.status().expect("openssl is there").success(), "openssl {arguments}");
}

/// A certificate authority and what it has signed.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(dir.path(), &format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=authority -days 2"));
        openssl(dir.path(), &format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
        Self(dir)
    }

    /// Gives the server a certificate for a host, valid for so many days.
    async fn certify(&self, cluster: &Cluster, host: &str, days: i32) {
        let dir = self.0.path();
        std::fs::write(dir.join("extensions"), format!("subjectAltName=DNS:{host}")).unwrap();
        let sign = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt";
        openssl(dir, &format!("{sign} -days {days} -extfile extensions"));
        for name in ["server.key", "server.crt"] {
            cluster.write(name, &std::fs::read_to_string(dir.join(name)).unwrap());
        }
        let (admin, before) = (client(&cluster.url()).await, loaded_at(cluster).await);
        admin.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        is_reloaded(cluster, &before).await;
    }
}

/// When the server has read its configuration last, with all that belongs to it.
async fn loaded_at(cluster: &Cluster) -> String {
    let row = client(&cluster.url()).await.query_one("SELECT pg_conf_load_time()::text", &[]).await.unwrap();
    row.get::<_, String>(0)
}

/// It takes what is new when it comes to it.
async fn is_reloaded(cluster: &Cluster, before: &str) {
    let reloaded = async {
        while loaded_at(cluster).await == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, reloaded).await.expect("it reads its configuration again");
}

async fn open(url: &str, authority: Option<&Authority>) -> Result<PostgresStore, OpenError> {
    let options = PostgresStore::options().patience(Duration::from_secs(1));
    match authority {
        Some(authority) => options.certificates(authority.0.path().join("ca.crt")).open(url).await,
        None => options.open(url).await,
    }
}

#[tokio::test]
async fn tls_is_with_whom_was_meant() {
    let cluster = Cluster::start("");
    let (right, wrong) = (Authority::new(), Authority::new());
    let url = |mode: &str| cluster.url().replace("127.0.0.1", "localhost").replace("sslmode=disable", mode);
    let refused = async |what: &str, mode: &str, authority: Option<&Authority>| {
        let refused = open(&url(mode), authority).await;
        assert!(matches!(refused, Err(OpenError::Unreachable { .. })), "{what}: {refused:?}");
    };

    // A server without TLS.
    refused("no TLS there", "sslmode=require", Some(&right)).await;
    open(&url("sslmode=prefer"), Some(&right)).await.expect("prefer takes what there is");

    right.certify(&cluster, "localhost", 2).await;
    for mode in ["sslmode=require", "sslmode=verify-full", "sslmode=prefer"] {
        let store = open(&url(mode), Some(&right)).await.unwrap();
        let version = store.head().await.unwrap().position.get();
        appended(&store, append("a-1", version)).await;
        let plain = "SELECT count(*) FILTER (WHERE NOT ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'indelible'";
        let monitor = client(&cluster.url()).await;
        // One writes, one listens, one reads; the last to come may take its time.
        let all = async {
            loop {
                let row = monitor.query_one(plain, &[]).await.unwrap();
                assert_eq!(row.get::<_, i64>(0), 0, "{mode}: a connection without TLS");
                if row.get::<_, i64>(1) >= 3 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect(mode);
        store.close().await.unwrap();
    }
    for mode in ["sslmode=require", "sslmode=verify-full", "sslmode=prefer"] {
        refused("another authority", mode, Some(&wrong)).await;
        refused("the system's authorities", mode, None).await;
    }
    // By its address, for which it has no certificate.
    let by_address = url("sslmode=require").replace("localhost", "127.0.0.1");
    let told = open(&by_address, Some(&right)).await;
    assert!(matches!(told, Err(OpenError::Unreachable { .. })), "{told:?}");

    right.certify(&cluster, "elsewhere", 2).await;
    refused("another host", "sslmode=verify-full", Some(&right)).await;
    refused("another host", "sslmode=prefer", Some(&right)).await;
    right.certify(&cluster, "localhost", -1).await;
    refused("expired", "sslmode=require", Some(&right)).await;

    // A server that takes TLS only, and one who refuses it.
    right.certify(&cluster, "localhost", 2).await;
    let store = open(&url("sslmode=require"), Some(&right)).await.unwrap();
    cluster.write("pg_hba.conf", "hostnossl all all all reject\nhostssl all all all trust\n");
    cluster.reload();
    let reloaded = async {
        while open(&url("sslmode=disable"), None).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, reloaded).await.expect("it takes TLS only");
    refused("TLS is asked for", "sslmode=disable", None).await;
    appended(&store, append("a-2", 0)).await;

    for (file, what) in [("/nowhere.pem", "in /nowhere.pem"), ("/dev/null", "there are none")] {
        let told = PostgresStore::options().certificates(file).open(&url("sslmode=require")).await;
        let Err(OpenError::Invalid(told)) = told else { panic!("{told:?}") };
        assert!(told.to_string().contains(what), "{told}");
    }
}

/// All that is traced, as text.
#[derive(Clone, Default)]
struct Traced(Arc<Mutex<String>>);

impl Visit for Traced {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        *self.0.lock().unwrap() += &format!("{field}={value:?} ");
    }
}

impl Subscriber for Traced {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut self.clone());
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        *self.0.lock().unwrap() += &format!("\n{} ", event.metadata().target());
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A password that is right, then revoked, then right again; wrong ones; and all that is told meanwhile.
#[tokio::test]
async fn no_password_is_told() {
    let traced = Traced::default();
    // Of all the tests that run beside this one, too.
    tracing::subscriber::set_global_default(traced.clone()).unwrap();
    let cluster = Cluster::start("");
    let admin = client(&cluster.url()).await;
    let revoke = |password: &str| format!("ALTER ROLE shop PASSWORD '{password}'");
    admin.batch_execute("CREATE ROLE shop LOGIN; CREATE SCHEMA indelible AUTHORIZATION shop").await.unwrap();
    admin.batch_execute(&revoke(SECRET)).await.unwrap();
    let before = loaded_at(&cluster).await;
    cluster.write("pg_hba.conf", "host all postgres all trust\nhost all shop all scram-sha-256\n");
    cluster.reload();
    is_reloaded(&cluster, &before).await;
    let url = cluster.url().replace("postgres@", &format!("shop:{SECRET}@"));

    let mut told = Vec::new();
    let store = PostgresStore::options().patience(Duration::from_millis(500)).open(&url).await.unwrap();
    appended(&store, append("a-1", 0)).await;
    admin.batch_execute(&revoke("another")).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'indelible'";
    admin.execute(end, &[]).await.unwrap();
    let refused = store.append(append("a-1", 1)).await;
    let is_told = |error: &StoreError| error.is_retryable();
    assert!(refused.as_ref().is_err_and(is_told), "{refused:?}");
    told.push(format!("{refused:?} {}", refused.as_ref().unwrap_err()));
    let refused = store.head().await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    told.push(format!("{refused:?} {}", refused.as_ref().unwrap_err()));
    let refused = PostgresStore::open(&url).await.unwrap_err();
    told.push(format!("{refused:?} {refused}"));
    admin.batch_execute(&revoke(SECRET)).await.unwrap();
    tokio::time::timeout(SOON, appended(&store, append("a-1", 1))).await.expect("it goes on by itself");
    told.push(format!("{store:?} {:?} {:#?}", PostgresStore::options(), store.statistics()));
    store.close().await.unwrap();

    for url in [
        "postgresql://me:hidden-word@127.0.0.1:1/x",
        "postgresql://me:hidden-word@127.0.0.1:notaport/x",
        "postgresql://me:hidden-word@127.0.0.1/x?unknown=hidden-word",
        "postgresql://me:hidden-word@127.0.0.1/x?sslmode=hidden-word",
        "postgresql://me:hidden-word@127.0.0.1/x?connect_timeout=hidden-word",
        "host=127.0.0.1 password='hidden-word",
        "hidden-word",
    ] {
        let error = PostgresStore::open(url).await.unwrap_err();
        told.push(format!("{error} {error:?}"));
    }
    for text in &told {
        assert!(!text.contains(SECRET), "{text}");
    }
    let traced = traced.0.lock().unwrap().clone();
    assert!(
        traced.contains("indelible_postgres") && traced.contains("connecting again"),
        "nothing was traced: {traced}"
    );
    let at = traced.find(SECRET).unwrap_or_default();
    assert!(!traced.contains(SECRET), "{}", &traced[at.saturating_sub(300)..at + 20]);
}
