//! TLS: handshakes, certificates that change, certificates of clients.

use std::{path::Path, sync::Arc, time::Duration};

use howdah::{
    api::{
        listener::{ClientAuth, Settings, Tls},
        server::{Limit, Limits, Permits},
        status,
    },
    domain::Reason,
    pb::v1::{GetDatabaseRequest, SubscribeRequest},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::harness::{BOUND, Edge, Raw, Setup};

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pub(super) pem: String,
}

pub(super) struct Leaf {
    chain: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    pem: String,
    key_pem: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, subject: &str, names: Vec<SanType>) -> Leaf {
        let subject = (DnType::CommonName, subject);
        let parts = [subject].into_iter().filter(|(_, text)| !text.is_empty());
        self.sign_parts(parts, names)
    }

    fn sign_parts<'a>(
        &self,
        subject: impl IntoIterator<Item = (DnType, &'a str)>,
        names: Vec<SanType>,
    ) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        for (kind, text) in subject {
            params.distinguished_name.push(kind, text);
        }
        params.subject_alt_names = names;
        self.leaf(&params)
    }

    fn leaf(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            chain: certificate.der().clone(),
            key: key.serialize_der().into(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    pub(super) fn server(&self) -> Leaf {
        let name = SanType::DnsName("localhost".try_into().unwrap());
        self.sign("server", vec![name])
    }

    pub(super) fn spiffe(&self, uri: &str) -> Leaf {
        let name = SanType::URI(uri.try_into().unwrap());
        self.sign("workload", vec![name])
    }

    /// A certificate of a workload whose last second is that one after 1970.
    pub(super) fn until(&self, uri: &str, second: u64) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
        self.leaf(&params)
    }
}

fn store(directory: &Path, leaf: &Leaf) {
    std::fs::write(directory.join("key.pem"), &leaf.key_pem).unwrap();
    std::fs::write(directory.join("certificate.pem"), &leaf.pem).unwrap();
}

/// An edge with a server certificate and, if given, a CA for clients.
pub(super) async fn edge(
    server: &Leaf,
    clients: Option<(&Authority, ClientAuth)>,
    settings: Settings,
) -> (Edge, TempDir) {
    limited(server, clients, settings, Limits::default()).await
}

/// The same with these limits.
async fn limited(
    server: &Leaf,
    clients: Option<(&Authority, ClientAuth)>,
    settings: Settings,
    limits: Limits,
) -> (Edge, TempDir) {
    let setup = Setup {
        settings,
        limits,
        anonymous: false,
        ..Setup::default()
    };
    with_tls(server, clients, setup).await
}

/// An edge with TLS, set up like that.
async fn with_tls(
    server: &Leaf,
    clients: Option<(&Authority, ClientAuth)>,
    setup: Setup,
) -> (Edge, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    store(path, server);
    let (client_ca, client_auth) = match clients {
        Some((authority, auth)) => {
            std::fs::write(path.join("ca.pem"), &authority.pem).unwrap();
            (Some(path.join("ca.pem")), auth)
        }
        None => (None, ClientAuth::Optional),
    };
    let tls = Tls {
        certificate: path.join("certificate.pem"),
        key: path.join("key.pem"),
        client_ca,
        client_auth,
    };
    let setup = Setup {
        settings: Settings {
            tls: Some(tls),
            ..setup.settings
        },
        ..setup
    };
    (Edge::start(setup).await, directory)
}

pub(super) fn reloading() -> Settings {
    Settings {
        reload_interval: Duration::from_millis(10),
        ..Settings::default()
    }
}

pub(super) async fn handshake(
    edge: &Edge,
    authority: &Authority,
    client: Option<&Leaf>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = client_config(authority, client, alpn);
    let stream = TcpStream::connect(edge.port()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

pub(super) fn client_config(
    authority: &Authority,
    client: Option<&Leaf>,
    alpn: &[&[u8]],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => config.with_no_client_auth(),
        Some(leaf) => config
            .with_client_auth_cert(
                vec![leaf.chain.clone()],
                PrivateKeyDer::Pkcs8(leaf.key.clone_key()),
            )
            .unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

pub(super) async fn connect(edge: &Edge, authority: &Authority, client: Option<&Leaf>) -> Raw {
    Raw::over(handshake(edge, authority, client, &[b"h2"]).await.unwrap()).await
}

pub(super) async fn whoami(client: &Raw) -> Result<String, tonic::Status> {
    let request = GetDatabaseRequest {
        name: "shop".to_owned(),
    };
    let answer = client.databases().get_database(request).await?;
    Ok(answer.into_inner().owner)
}

/// The certificate that the server shows to a new connection.
async fn shown(edge: &Edge, authority: &Authority) -> CertificateDer<'static> {
    let stream = handshake(edge, authority, None, &[b"h2"]).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].clone().into_owned()
}

#[tokio::test]
async fn unfinished_handshake_is_closed() {
    let authority = Authority::new();
    let settings = Settings {
        handshake_timeout: Duration::from_millis(50),
        ..Settings::default()
    };
    let (edge, _files) = edge(&authority.server(), None, settings).await;
    let mut stream = TcpStream::connect(edge.port()).await.unwrap();
    let mut bytes = Vec::new();
    timeout(BOUND, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection is closed")
        .ok();
    edge.measured(&["howdah_connections_open", " 0"]).await;
}

#[tokio::test]
async fn certificate_is_reloaded_in_place() {
    let authority = Authority::new();
    let (first, second) = (authority.spiffe("spiffe://mesh/a"), authority.server());
    let server = authority.server();
    let clients = Some((&authority, ClientAuth::Optional));
    let (edge, files) = edge(&server, clients, reloading()).await;
    let old = connect(&edge, &authority, Some(&first)).await;
    assert_eq!(whoami(&old).await.unwrap(), "cert:spiffe://mesh/a");
    assert_eq!(shown(&edge, &authority).await, server.chain);

    store(files.path(), &second);
    timeout(BOUND, async {
        while shown(&edge, &authority).await != second.chain {}
    })
    .await
    .expect("the new certificate is shown");
    assert_eq!(whoami(&old).await.unwrap(), "cert:spiffe://mesh/a");
}

#[tokio::test]
async fn each_certificate_has_a_share_of_its_own() {
    let authority = Authority::new();
    let limits = Limits {
        permits: Permits {
            streams: Limit::of(2),
            ..Permits::default()
        },
        ..Limits::default()
    };
    let clients = Some((&authority, ClientAuth::Required));
    let settings = Settings::default();
    let (edge, _files) = limited(&authority.server(), clients, settings, limits).await;
    let subscribe = async |client: &Raw| {
        let mut streams = client.streams();
        streams.subscribe(SubscribeRequest::default()).await
    };
    let certificate = authority.spiffe("spiffe://mesh/a");
    let one = connect(&edge, &authority, Some(&certificate)).await;
    let same = connect(&edge, &authority, Some(&certificate)).await;
    let _open = subscribe(&one).await.unwrap();
    let status = subscribe(&same).await.unwrap_err();
    assert_eq!(status::reason(&status), Some(Reason::BudgetExhausted));
    let certificate = authority.spiffe("spiffe://mesh/b");
    let other = connect(&edge, &authority, Some(&certificate)).await;
    subscribe(&other).await.unwrap();
}

#[tokio::test]
async fn broken_files_keep_the_former_ones_in_use() {
    let authority = Authority::new();
    let server = authority.server();
    let (edge, files) = edge(&server, None, reloading()).await;
    std::fs::write(files.path().join("certificate.pem"), "no certificate").unwrap();
    // Many reload intervals, each with a handshake that must work.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        assert_eq!(shown(&edge, &authority).await, server.chain);
    }
    let next = authority.server();
    store(files.path(), &next);
    timeout(BOUND, async {
        while shown(&edge, &authority).await != next.chain {}
    })
    .await
    .expect("the repaired certificate is shown");
}

#[tokio::test]
async fn client_certificate_becomes_the_principal() {
    let authority = Authority::new();
    let clients = Some((&authority, ClientAuth::Optional));
    let (edge, _files) = edge(&authority.server(), clients, Settings::default()).await;
    let workload = authority.spiffe("spiffe://mesh/ns/default/sa/orders");
    let client = connect(&edge, &authority, Some(&workload)).await;
    assert_eq!(
        whoami(&client).await.unwrap(),
        "cert:spiffe://mesh/ns/default/sa/orders"
    );
    let person = authority.sign("ada", Vec::new());
    let client = connect(&edge, &authority, Some(&person)).await;
    assert_eq!(whoami(&client).await.unwrap(), "cert:CN=ada");
    let client = connect(&edge, &authority, None).await;
    let status = whoami(&client).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
}

/// Also where whoever shows nothing is let in.
#[tokio::test]
async fn certificate_without_a_usable_identity_is_refused() {
    let authority = Authority::new();
    let clients = Some((&authority, ClientAuth::Optional));
    let (edge, _files) = with_tls(&authority.server(), clients, Setup::default()).await;
    let nothing = connect(&edge, &authority, None).await;
    assert_eq!(whoami(&nothing).await.unwrap(), "anonymous");
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    for leaf in [
        authority.sign("two", vec![uri("spiffe://mesh/a"), uri("spiffe://mesh/b")]),
        authority.sign("one", vec![uri("spiffe://mesh/a\nb")]),
        authority.sign("one", vec![uri("SPIFFE://mesh/a")]),
        authority.sign("", Vec::new()),
        authority.sign(&"n".repeat(4000), Vec::new()),
    ] {
        let client = connect(&edge, &authority, Some(&leaf)).await;
        let status = whoami(&client).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
        assert_eq!(status::reason(&status), Some(Reason::CredentialsMissing));
        assert!(status.message().contains("names nobody"), "{status:?}");
    }
}

#[tokio::test]
async fn different_subjects_are_different_principals() {
    let authority = Authority::new();
    let clients = Some((&authority, ClientAuth::Required));
    let (edge, _files) = edge(&authority.server(), clients, Settings::default()).await;
    let (name, organisation) = (DnType::CommonName, DnType::OrganizationName);
    let unnamed = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
    for (subject, principal) in [
        (
            vec![(name.clone(), "admin"), (organisation.clone(), "ops")],
            r"cert:O=ops,CN=admin",
        ),
        (
            vec![(organisation.clone(), "ops"), (name.clone(), "admin")],
            r"cert:CN=admin,O=ops",
        ),
        (
            vec![(name.clone(), "admin, O=ops")],
            r"cert:CN=admin\, O\=ops",
        ),
        (
            vec![(name.clone(), "admin,O=ops")],
            r"cert:CN=admin\,O\=ops",
        ),
        (
            vec![(name.clone(), "ada\n2026-01-01 INFO audit: call was made")],
            r"cert:CN=ada\0A2026-01-01 INFO audit: call was made",
        ),
        (vec![(unnamed, "a")], "cert:1.2.840.113549.1.9.1=#0c0161"),
        (vec![(name, "#0c0161")], r"cert:CN=\#0c0161"),
    ] {
        let leaf = authority.sign_parts(subject, Vec::new());
        let client = connect(&edge, &authority, Some(&leaf)).await;
        assert_eq!(whoami(&client).await.unwrap(), principal);
    }
}

#[tokio::test]
async fn client_certificate_can_be_required_and_is_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let clients = Some((&authority, ClientAuth::Required));
    let (edge, _files) = edge(&authority.server(), clients, Settings::default()).await;
    let foreign = stranger.spiffe("spiffe://mesh/orders");
    for client in [None, Some(&foreign)] {
        // TLS 1.3 tells the client after its own handshake is over.
        let mut stream = match handshake(&edge, &authority, client, &[b"h2"]).await {
            Ok(stream) => stream,
            Err(_) => continue,
        };
        let mut byte = [0];
        let read = timeout(BOUND, stream.read(&mut byte)).await.unwrap();
        assert!(!matches!(read, Ok(1..)), "{read:?}");
    }
    let own = authority.spiffe("spiffe://mesh/orders");
    let client = connect(&edge, &authority, Some(&own)).await;
    assert_eq!(whoami(&client).await.unwrap(), "cert:spiffe://mesh/orders");
}

#[tokio::test]
async fn only_h2_is_spoken() {
    let authority = Authority::new();
    let (edge, _files) = edge(&authority.server(), None, Settings::default()).await;
    handshake(&edge, &authority, None, &[b"http/1.1"])
        .await
        .unwrap_err();
    let mut without = handshake(&edge, &authority, None, &[]).await.unwrap();
    let mut byte = [0];
    let read = timeout(BOUND, without.read(&mut byte)).await.unwrap();
    assert!(!matches!(read, Ok(1..)), "{read:?}");
}
