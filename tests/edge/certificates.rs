//! Connections whose client certificate ends: it expires, or its CA is taken away.

use std::{future::Future, sync::Arc, time::Duration};

use howdah::{
    api::{
        listener::{ClientAuth, Settings},
        status,
    },
    domain::{
        Reason,
        clock::{Clock as _, SystemClock},
    },
    pb::{google::longrunning::WaitOperationRequest, v1::SubscribeRequest},
};
use rustls::{HandshakeKind, pki_types::ServerName};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    frames::{self, Framed, GOAWAY},
    harness::{BOUND, Raw},
    tls::{Authority, Leaf, client_config, connect, edge, handshake, reloading, whoami},
};

const WORKLOAD: &str = "spiffe://mesh/orders";
const GRACE: Duration = Duration::from_millis(500);

/// A certificate that is valid for three to four seconds.
fn short_lived(authority: &Authority) -> Leaf {
    let now: u64 = SystemClock.now().timestamp().try_into().unwrap();
    authority.until(WORKLOAD, now + 3)
}

fn settings() -> Settings {
    Settings {
        certificate_grace: GRACE,
        farewell: Duration::from_millis(50),
        ..reloading()
    }
}

async fn told_to_go(client: &Raw) {
    let told = async {
        while !client.told_to_go() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(BOUND, told).await.expect("GOAWAY comes");
}

/// That the next handshake fails, or what TLS 1.3 has instead: an end right after it.
async fn refused(stream: std::io::Result<TlsStream<TcpStream>>) {
    if let Ok(mut stream) = stream {
        let read = timeout(BOUND, stream.read(&mut [0])).await.unwrap();
        assert!(!matches!(read, Ok(1..)), "{read:?}");
    }
}

/// What lasts: a subscription, a stream of health, a wait.
async fn lasting(client: &Raw) -> impl Future<Output = [Status; 3]> + use<> {
    let mut streams = client.streams();
    let asked = streams.subscribe(SubscribeRequest::default());
    let mut changes = asked.await.unwrap().into_inner();
    changes.message().await.unwrap().unwrap();
    let mut health = HealthClient::with_origin(client.channel(), Raw::origin());
    let asked = health.watch(HealthCheckRequest::default());
    let mut health = asked.await.unwrap().into_inner();
    health.message().await.unwrap().unwrap();
    let mut operations = client.operations();
    let mut wait = JoinSet::new();
    wait.spawn(async move {
        let request = WaitOperationRequest::default();
        operations.wait_operation(request).await.unwrap_err()
    });
    async move {
        let changes = changes.message().await.unwrap_err();
        let health = health.message().await.unwrap_err();
        [changes, health, wait.join_next().await.unwrap().unwrap()]
    }
}

/// Waits for the end of what lasts, which must not come before the grace is over.
async fn ends_after_grace(lasting: impl Future<Output = [Status; 3]>, told: Instant) {
    for status in timeout(BOUND, lasting).await.expect("they end") {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(status::reason(&status), Some(Reason::ConnectionEnding));
    }
    // It was seen up to a few milliseconds after it was sent.
    assert!(told.elapsed() > GRACE / 2, "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let authority = Authority::new();
    let clients = Some((&authority, ClientAuth::Required));
    let (edge, _files) = edge(&authority.server(), clients, settings()).await;
    let leaf = short_lived(&authority);
    let mut client = connect(&edge, &authority, Some(&leaf)).await;
    assert_eq!(whoami(&client).await.unwrap(), format!("cert:{WORKLOAD}"));
    let lasting = lasting(&client).await;
    assert!(!client.told_to_go());
    told_to_go(&client).await;
    let told = Instant::now();
    refused(handshake(&edge, &authority, Some(&leaf), &[b"h2"]).await).await;
    ends_after_grace(lasting, told).await;
    client.ended().await;
}

/// A client that goes on in spite of the GOAWAY.
#[tokio::test]
async fn no_call_begins_on_a_connection_whose_certificate_has_ended() {
    let authority = Authority::new();
    let clients = Some((&authority, ClientAuth::Required));
    let grace = Settings {
        certificate_grace: BOUND,
        ..settings()
    };
    let (edge, _files) = edge(&authority.server(), clients, grace).await;
    let leaf = short_lived(&authority);
    let stream = handshake(&edge, &authority, Some(&leaf), &[b"h2"]).await;
    let mut client = Framed::over(stream.unwrap(), 65_535).await;
    let get = "/howdah.v1.DatabaseService/GetDatabase";
    let calls = |code: &'static str, count: &'static str| {
        [
            "rpc_server_call_duration_seconds_count",
            "GetDatabase",
            code,
            count,
        ]
    };
    client.write(&frames::call(1, get, &[0; 5])).await;
    edge.measured(&calls("\"OK\"", "} 1")).await;
    while client.read().await.expect("GOAWAY comes").kind != GOAWAY {}
    client.write(&frames::call(3, get, &[0; 5])).await;
    edge.measured(&calls("\"UNAVAILABLE\"", "} 1")).await;
}

/// A resumed session would bring a certificate along that nobody has verified.
#[tokio::test]
async fn an_expired_certificate_is_not_let_in_by_a_resumed_session() {
    let authority = Authority::new();
    let clients = Some((&authority, ClientAuth::Required));
    let (edge, _files) = edge(&authority.server(), clients, settings()).await;
    let leaf = short_lived(&authority);
    let connector = TlsConnector::from(Arc::new(client_config(&authority, Some(&leaf), &[b"h2"])));
    let dial = async || {
        let stream = TcpStream::connect(edge.port()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, stream).await
    };
    for _ in 0..2 {
        let stream = dial().await.unwrap();
        let kind = stream.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Full));
        let client = Raw::over(stream).await;
        whoami(&client).await.unwrap();
    }
    let client = Raw::over(dial().await.unwrap()).await;
    told_to_go(&client).await;
    refused(dial().await).await;
}

#[tokio::test]
async fn connections_of_a_ca_that_was_taken_away_end() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut both = Authority::new();
    both.pem = [old.pem.as_str(), new.pem.as_str()].concat();
    let clients = Some((&both, ClientAuth::Optional));
    let (edge, files) = edge(&old.server(), clients, settings()).await;
    let before = old.spiffe("spiffe://mesh/a");
    let after = new.spiffe("spiffe://mesh/b");
    let of_new = connect(&edge, &old, Some(&after)).await;
    let mut of_old = connect(&edge, &old, Some(&before)).await;
    let anonymous = connect(&edge, &old, None).await;
    assert_eq!(whoami(&of_old).await.unwrap(), "cert:spiffe://mesh/a");
    let lasting = lasting(&of_old).await;

    std::fs::write(files.path().join("ca.pem"), &new.pem).unwrap();
    told_to_go(&of_old).await;
    let told = Instant::now();
    refused(handshake(&edge, &old, Some(&before), &[b"h2"]).await).await;
    ends_after_grace(lasting, told).await;
    of_old.ended().await;
    // The others have seen the same files.
    assert_eq!(whoami(&of_new).await.unwrap(), "cert:spiffe://mesh/b");
    let status = whoami(&anonymous).await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::CredentialsMissing));
    assert!(!of_new.told_to_go() && !anonymous.told_to_go());
}
