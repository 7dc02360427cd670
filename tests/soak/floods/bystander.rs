//! Somebody else, at another address, who goes on calling.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use howdah::pb::v1::{GetInstanceRequest, instance_service_client::InstanceServiceClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tonic::Code;

use crate::{
    edge::harness::{Channel, Raw},
    support::howdah::{Howdah, instance_name},
};

/// Not the address of the attackers.
const ADDRESS: [u8; 4] = [127, 0, 0, 2];

/// Each call is answered within this time. That is no promise of speed, which the table
/// shows: it is so long that only who is locked out misses it.
const SERVED: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(5);

/// After so many calls, the admin port is asked too.
const PROBE: usize = 20;

/// Calls on a thread of its own: it shares no queue with those who attack.
pub struct Bystander {
    latencies: Arc<Mutex<Vec<Duration>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bystander {
    pub fn start(howdah: &Howdah) -> Self {
        let api = howdah.endpoint().parse().unwrap();
        let admin = howdah.admin_endpoint().parse().unwrap();
        let latencies = Arc::<Mutex<Vec<Duration>>>::default();
        let over = Arc::new(AtomicBool::new(false));
        let (calls, ends) = (Arc::clone(&latencies), Arc::clone(&over));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(go_on(api, admin, &calls, &ends));
        });
        Self {
            latencies,
            over,
            thread: Some(thread),
        }
    }

    /// Begins to measure anew.
    pub fn forget(&self) {
        self.latencies.lock().unwrap().clear();
    }

    /// Whether so many calls were answered since then. Fails where one was not.
    pub fn has_called(&self, calls: usize) -> bool {
        let alive = self.thread.as_ref().is_some_and(|it| !it.is_finished());
        assert!(alive, "the bystander was not served");
        self.latencies.lock().unwrap().len() >= calls
    }

    /// The 99th percentile of the calls since then.
    pub fn slowest(&self) -> Duration {
        let mut latencies = self.latencies.lock().unwrap().clone();
        latencies.sort_unstable();
        latencies[latencies.len() * 99 / 100]
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended
            && !thread::panicking()
        {
            panic!("the bystander was not served");
        }
    }
}

async fn go_on(
    api: SocketAddr,
    admin: SocketAddr,
    latencies: &Mutex<Vec<Duration>>,
    over: &AtomicBool,
) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ADDRESS, 0).into()).unwrap();
    let stream = socket.connect(api).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let client = Raw::over(stream).await;
    let mut instances = InstanceServiceClient::with_origin(client.channel(), Raw::origin());
    let mut calls = 0;
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let served = timeout(SERVED, get(&mut instances)).await;
        served.expect("an answer in time");
        latencies.lock().unwrap().push(begin.elapsed());
        calls += 1;
        if calls % PROBE == 0 {
            let probe = timeout(SERVED, is_alive(admin)).await;
            probe.expect("a probe is answered in time");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Gets the instance. UNAVAILABLE says that it may be asked again, which clients do: the
/// metadata's connections are shared with those who attack.
async fn get(instances: &mut InstanceServiceClient<Channel>) {
    loop {
        let request = GetInstanceRequest {
            name: instance_name("orders"),
        };
        match instances.get_instance(request).await {
            Ok(_) => return,
            Err(status) if status.code() == Code::Unavailable => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}

/// Asks whether the process is alive until it says so. One connection may be ended to make
/// room for others, which a prober takes for one failure of several that it waits for.
async fn is_alive(admin: SocketAddr) {
    while !probe(admin).await.unwrap_or_default() {
        tokio::time::sleep(PAUSE).await;
    }
}

async fn probe(admin: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}
