//! A TCP proxy before the server, which cuts the connection in the middle of one call of `append`: after any byte of
//! what is asked, or of what is answered. Or it keeps what is asked, and hands it over when nobody reckons with it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// What is to happen to the next call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cut {
    /// Nothing but that its bytes are counted.
    Count,
    /// The connection ends when the server has got so many bytes of it.
    Asked(usize),
    /// The connection ends when the caller has got so many bytes of the answer.
    Answered(usize),
    /// The connection ends for the caller, and the server gets the call when it is [released](Proxy::release).
    Late,
    /// The caller waits, and the server gets the call when it is released.
    Held,
}

#[derive(Default)]
struct Shared {
    server: Mutex<(String, u16)>,
    next: Mutex<Option<Cut>>,
    asked: AtomicUsize,
    answered: AtomicUsize,
    cuts: AtomicUsize,
    release: Notify,
    released: Notify,
}

pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy before the server of a URL.
    pub(crate) async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        *shared.server.lock().unwrap() = server(url);
        tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((caller, _)) = listener.accept().await {
                    let shared = Arc::clone(&shared);
                    tokio::spawn(async move {
                        let (host, port) = shared.server.lock().unwrap().clone();
                        let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                        for side in [&caller, &server] {
                            side.set_nodelay(true).unwrap();
                        }
                        serve(caller, server, shared).await;
                    });
                }
            }
        });
        Self { port, shared }
    }

    /// The URL of the server through the proxy. Calls are told by their text, which has no TLS around it.
    pub(crate) fn url(&self, url: &str) -> String {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let user = config.get_user().unwrap_or("postgres");
        let password = config.get_password().map(|bytes| format!(":{}", String::from_utf8_lossy(bytes)));
        let database = config.get_dbname().unwrap_or("postgres");
        let password = password.unwrap_or_default();
        format!("postgresql://{user}{password}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Leads connections that come from now on to another server.
    pub(crate) fn lead_to(&self, url: &str) {
        *self.shared.server.lock().unwrap() = server(url);
    }

    pub(crate) fn cut_next(&self, cut: Cut) {
        self.shared.asked.store(0, SeqCst);
        self.shared.answered.store(0, SeqCst);
        *self.shared.next.lock().unwrap() = Some(cut);
    }

    /// The bytes of the last call that was watched: asked, answered.
    pub(crate) fn counted(&self) -> (usize, usize) {
        (self.shared.asked.load(SeqCst), self.shared.answered.load(SeqCst))
    }

    /// How many connections were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(SeqCst)
    }

    /// Hands a late call over, and waits until the server has answered it.
    pub(crate) async fn release(&self) {
        self.shared.release.notify_one();
        self.shared.released.notified().await;
    }
}

fn server(url: &str) -> (String, u16) {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let tokio_postgres::config::Host::Tcp(host) = &config.get_hosts()[0] else { panic!("a socket has no proxy") };
    (host.clone(), config.get_ports().first().copied().unwrap_or(5432))
}

async fn serve(caller: TcpStream, server: TcpStream, shared: Arc<Shared>) {
    let (from_caller, to_caller) = caller.into_split();
    let (from_server, to_server) = server.into_split();
    // What this connection's call is to meet with, as soon as it is there.
    let cut = Mutex::new(None);
    let to_caller = tokio::sync::Mutex::new(Some(to_caller));
    tokio::select! {
        () = ask((from_caller, &to_caller), to_server, &shared, &cut) => {}
        () = answer(from_server, &to_caller, &shared, &cut) => {}
    }
}

type ToCaller = tokio::sync::Mutex<Option<OwnedWriteHalf>>;

async fn ask(
    (mut from, to_caller): (OwnedReadHalf, &ToCaller),
    mut to: OwnedWriteHalf,
    shared: &Shared,
    cut: &Mutex<Option<Cut>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let bytes = &buffer[..count];
        let is_call = bytes.windows(7).any(|window| window == b".append");
        if is_call && let Some(next) = shared.next.lock().unwrap().take() {
            *cut.lock().unwrap() = Some(next);
        }
        let mine = *cut.lock().unwrap();
        let before = if mine.is_some() { shared.asked.fetch_add(count, SeqCst) } else { 0 };
        let forwarded = match mine {
            Some(Cut::Asked(end)) => count.min(end - before.min(end)),
            Some(late @ (Cut::Late | Cut::Held)) => {
                shared.cuts.fetch_add(1, SeqCst);
                let bytes = bytes.to_vec();
                let caller = (from, to_caller.lock().await.take());
                // The caller sees its connection die now, or nothing at all.
                let _kept = (late == Cut::Held).then_some(caller);
                shared.release.notified().await;
                let _ = to.write_all(&bytes).await;
                // The answer ends this.
                std::future::pending::<()>().await;
                return;
            }
            _ => count,
        };
        if to.write_all(&bytes[..forwarded]).await.is_err() {
            return;
        }
        if matches!(mine, Some(Cut::Asked(end)) if before + count >= end) {
            shared.cuts.fetch_add(1, SeqCst);
            return;
        }
    }
}

async fn answer(mut from: OwnedReadHalf, to: &ToCaller, shared: &Shared, cut: &Mutex<Option<Cut>>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let mine = *cut.lock().unwrap();
        let before = if mine.is_some() { shared.answered.fetch_add(count, SeqCst) } else { 0 };
        let forwarded = match mine {
            Some(Cut::Answered(end)) => count.min(end - before.min(end)),
            Some(Cut::Late | Cut::Held) => {
                shared.released.notify_one();
                return;
            }
            _ => count,
        };
        let mut to = to.lock().await;
        let Some(to) = to.as_mut() else { return };
        if to.write_all(&buffer[..forwarded]).await.is_err() {
            return;
        }
        if matches!(mine, Some(Cut::Answered(end)) if before + count >= end) {
            shared.cuts.fetch_add(1, SeqCst);
            return;
        }
    }
}
