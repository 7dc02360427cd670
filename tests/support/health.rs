//! What a process says of itself: gRPC health and `/readyz`.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::howdah::Howdah;

/// Within this time health tells what is so.
pub const TRUE_WITHIN: Duration = Duration::from_secs(15);

/// Longest answer to a probe: it asks nobody.
const PROBE: Duration = Duration::from_secs(5);

/// The two answers; both are true when calls are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    pub serving: bool,
    pub ready: bool,
}

impl Health {
    pub const UP: Self = Self {
        serving: true,
        ready: true,
    };
    pub const DOWN: Self = Self {
        serving: false,
        ready: false,
    };
}

/// Somebody who asks again and again.
#[derive(Clone, Debug)]
pub struct Prober {
    channel: Channel,
    admin: String,
}

impl Prober {
    pub async fn of(howdah: &Howdah) -> Self {
        Self {
            channel: howdah.channel().await,
            admin: howdah.admin_endpoint(),
        }
    }

    pub async fn ask(&self) -> Health {
        let asked = timeout(PROBE, async { tokio::join!(self.serving(), self.ready()) });
        let (serving, ready) = asked.await.expect("probes are answered at once");
        Health { serving, ready }
    }

    /// Waits until this is the answer; fails when that takes longer than it may, and a
    /// moment for a busy machine.
    pub async fn becomes(&self, wanted: Health, since: Instant) {
        let end = since + TRUE_WITHIN + Duration::from_secs(1);
        loop {
            let now = self.ask().await;
            if now == wanted {
                return;
            }
            assert!(
                Instant::now() < end,
                "{now:?} {:?} after the change, not {wanted:?}",
                since.elapsed()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn serving(&self) -> bool {
        let mut client = HealthClient::new(self.channel.clone());
        let answer = client.check(HealthCheckRequest::default()).await;
        answer.unwrap().into_inner().status() == ServingStatus::Serving
    }

    async fn ready(&self) -> bool {
        let mut stream = TcpStream::connect(&self.admin).await.unwrap();
        let request = "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        match answer.split(' ').nth(1) {
            Some("200") => true,
            Some("503") => false,
            _ => panic!("{answer}"),
        }
    }
}
