//! A TCP proxy on loopback that behaves as a network with faults does. Its behaviour can
//! be changed while connections are open.
//!
//! It runs on a thread of its own: a test that blocks its own runtime does not stop it.

use std::{
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::ports;

/// What happens to bytes on their way, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Each chunk is late by so much.
    Delay(Duration),
    /// Bytes and ends of connections are lost; nobody is told.
    Lose,
    /// Nothing arrives until the mode changes; then all of it does.
    Hold,
    /// After so many bytes of a direction the connection is reset.
    Half(usize),
}

/// A proxy. Its connections are reset when it is dropped.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// Listens on a free port, and passes everything on to this port on loopback.
    pub fn new(upstream: u16) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Shared {
            upstream: Mutex::new((Ipv4Addr::LOCALHOST, upstream).into()),
            mode: watch::Sender::new(Mode::Pass),
            cuts: watch::Sender::new(0),
        };
        let mut proxy = Self {
            port: ports::one(),
            shared: Arc::new(shared),
            accepting: None,
            runtime: Some(runtime),
        };
        proxy.listen();
        proxy
    }

    /// Everything passes again, what was held included, and new connections are accepted.
    pub fn pass(&mut self) {
        self.shared.mode.send_replace(Mode::Pass);
        self.listen();
    }

    /// Each chunk is late by so much.
    pub fn delay(&self, by: Duration) {
        self.shared.mode.send_replace(Mode::Delay(by));
    }

    /// Silence: connections stay open, new ones are accepted, and what is sent is lost.
    pub fn lose(&self) {
        self.shared.mode.send_replace(Mode::Lose);
    }

    /// Silence, after which everything that was sent arrives.
    pub fn hold(&self) {
        self.shared.mode.send_replace(Mode::Hold);
    }

    /// Connections are reset when one direction has passed so many bytes from now on.
    pub fn half(&self, bytes: usize) {
        self.shared.mode.send_replace(Mode::Half(bytes));
    }

    /// Resets all connections that are open (RST).
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Resets all connections and refuses new ones, until the next [`Proxy::pass`].
    pub async fn refuse(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    /// New connections go to this port on loopback.
    pub fn upstream(&self, port: u16) {
        *self.shared.upstream.lock().unwrap() = (Ipv4Addr::LOCALHOST, port).into();
    }

    fn listen(&mut self) {
        if self.accepting.is_some() {
            return;
        }
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = self.runtime.as_ref().unwrap();
        self.accepting = Some(runtime.spawn(accept(listener, Arc::clone(&self.shared))));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn accept(listener: StdListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    // Reset with the listener.
    let mut connections = JoinSet::new();
    loop {
        // A client can be gone before it is accepted.
        if let Ok((client, _)) = listener.accept().await {
            connections.spawn(connection(client, Arc::clone(&shared)));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// A connection; it is reset if it does not end in order.
async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    // However this task ends: after an orderly end there is nothing left to reset.
    let _ = client.set_zero_linger();
    tokio::select! {
        _ = forward(&mut client, &shared) => {}
        _ = cuts.changed() => {}
    }
}

async fn forward(client: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    let mut mode = shared.mode.subscribe();
    if released(&mut mode).await == Mode::Lose {
        // The server never hears of this connection.
        let mut lost = tokio::io::sink();
        let _ = tokio::io::copy(client, &mut lost).await;
        return pending().await;
    }
    let upstream = *shared.upstream.lock().unwrap();
    let mut server = TcpStream::connect(upstream).await?;
    server.set_zero_linger()?;
    for stream in [&*client, &server] {
        stream.set_nodelay(true)?;
    }
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let there = pump(from_client, to_server, mode.clone());
    let back = pump(from_server, to_client, mode);
    tokio::try_join!(there, back).map(|_| ())
}

/// Passes one direction on until it ends.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    // Bytes that went through since the mode changed.
    let mut passed = 0;
    loop {
        let read = from.read(&mut buffer).await;
        if mode.has_changed().unwrap_or(false) {
            passed = 0;
        }
        let mode = released(&mut mode).await;
        match (mode, &read) {
            (Mode::Lose, Ok(1..)) => continue,
            (Mode::Lose, _) => return pending().await,
            (Mode::Delay(by), _) => tokio::time::sleep(by).await,
            _ => {}
        }
        let mut length = read?;
        if length == 0 {
            return to.shutdown().await;
        }
        if let Mode::Half(bytes) = mode {
            length = length.min(bytes.saturating_sub(passed));
        }
        to.write_all(&buffer[..length]).await?;
        passed += length;
        if matches!(mode, Mode::Half(bytes) if passed >= bytes) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

/// The mode, once it is another one than [`Mode::Hold`].
async fn released(mode: &mut watch::Receiver<Mode>) -> Mode {
    loop {
        let now = *mode.borrow_and_update();
        if now != Mode::Hold {
            return now;
        }
        if mode.changed().await.is_err() {
            return pending().await;
        }
    }
}
