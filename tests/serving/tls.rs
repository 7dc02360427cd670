//! TLS and client certificates, through the settings.

use std::{fs, process::Command, time::Duration};

use howdah::{
    client::{Client, Options as ClientOptions},
    pb::v1::ListInstancesRequest,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use crate::support::howdah::{Howdah, Options, PROJECT, eventually, signal};

/// What TLS needs, in a directory.
pub(crate) struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    /// A CA, a server certificate for localhost, and a client's.
    pub(crate) fn new() -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        files.fill();
        files
    }

    /// Makes all of them anew.
    fn fill(&self) {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Another name than that of its certificates: OpenSSL takes them for self-signed.
        ca.distinguished_name
            .push(DnType::CommonName, "Howdah's tests");
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        self.write("ca.pem", &ca.pem());
        // By SPIFFE a certificate with two identities is nobody's.
        let two = ["spiffe://mesh/a", "spiffe://mesh/b"];
        for (name, host, identities) in [
            ("server", "localhost", &[][..]),
            ("client", "client", &[]),
            ("ambiguous", "client", &two),
        ] {
            let key = KeyPair::generate().unwrap();
            let names = vec![host.to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).unwrap();
            let uri = |text: &&str| SanType::URI((*text).try_into().unwrap());
            params.subject_alt_names.extend(identities.iter().map(uri));
            let certificate = params.signed_by(&key, &ca).unwrap();
            self.write(&format!("{name}.pem"), &certificate.pem());
            self.write(&format!("{name}.key"), &key.serialize_pem());
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

async fn list(options: &ClientOptions, howdah: &Howdah) -> Result<(), String> {
    let client = Client::connect(&format!("https://{}", howdah.endpoint()), options).await;
    let client = client.map_err(|error| error.to_string())?;
    let request = ListInstancesRequest {
        parent: PROJECT.into(),
        ..Default::default()
    };
    client
        .list_instances(request)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_opens_a_door_that_others_find_shut() {
    let files = Files::new();
    let options = Options::external()
        .await
        .with("HOWDAH_LISTEN", "0.0.0.0:0")
        .with("HOWDAH_TLS_CERTIFICATE", files.path("server.pem"))
        .with("HOWDAH_TLS_KEY", files.path("server.key"))
        .with("HOWDAH_TLS_CLIENT_CA", files.path("ca.pem"))
        .with("HOWDAH_TLS_CLIENT_CERTIFICATES", "required");
    let mut howdah = Howdah::new(options);
    howdah.spawn("");
    eventually("it serves", async || {
        howdah.data_dir().join("endpoint").exists()
    })
    .await;
    let bare = ClientOptions {
        ca: Some(files.path("ca.pem").into()),
        connect_timeout: Duration::from_secs(5),
        ..ClientOptions::default()
    };
    let known = ClientOptions {
        certificate: Some(files.path("client.pem").into()),
        key: Some(files.path("client.key").into()),
        ..bare.clone()
    };
    howdah.endpoint_host("127.0.0.1");
    list(&known, &howdah).await.unwrap();
    list(&bare, &howdah).await.unwrap_err();
    // The client's library may not say why: the server's log does.
    let stranger = Files::new();
    let unknown = ClientOptions {
        certificate: Some(stranger.path("client.pem").into()),
        key: Some(stranger.path("client.key").into()),
        ..bare.clone()
    };
    list(&unknown, &howdah).await.unwrap_err();
    for why in ["BadSignature", "peer sent no certificates"] {
        eventually("the refusal is logged", async || {
            let log = howdah.log();
            let mut lines = log.lines();
            lines.any(|line| line.contains("client certificate was refused") && line.contains(why))
        })
        .await;
    }
    let nobody = ClientOptions {
        certificate: Some(files.path("ambiguous.pem").into()),
        key: Some(files.path("ambiguous.key").into()),
        ..bare
    };
    let refused = list(&nobody, &howdah).await.unwrap_err();
    assert!(refused.contains("names nobody"), "{refused}");
    let log = howdah.log();
    let denial = log.lines().find(|line| line.contains("call was denied"));
    let denial: serde_json::Value = serde_json::from_str(denial.expect("a denial")).unwrap();
    for (field, value) in [
        ("target", "audit"),
        ("effect", "denial"),
        ("method", "howdah.v1.InstanceService/ListInstances"),
        ("principal", "unidentified"),
        ("result", "CREDENTIALS_MISSING"),
    ] {
        assert_eq!(denial[field], value, "{denial}");
    }
}

/// The file in the data directory is enough for clients that know the authority; and what
/// `config principal` prints is who the caller is.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_tls_is_found_and_knows_its_callers() {
    let files = Files::new();
    let options = Options::external()
        .await
        .with("HOWDAH_LISTEN", "0.0.0.0:0")
        .with("HOWDAH_TLS_CERTIFICATE", files.path("server.pem"))
        .with("HOWDAH_TLS_KEY", files.path("server.key"))
        .with("HOWDAH_TLS_CLIENT_CA", files.path("ca.pem"))
        .with("HOWDAH_TLS_CLIENT_CERTIFICATES", "required");
    let howdah = Howdah::serve(options).await;
    let file = fs::read_to_string(howdah.data_dir().join("endpoint")).unwrap();
    assert!(file.starts_with("https://127.0.0.1:"), "{file}");
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
        command.args(words).env_clear();
        command.env("HOWDAH_DATA_DIR", howdah.data_dir());
        command.output().unwrap()
    };
    let tls = ["ca.pem", "client.pem", "client.key"].map(|name| files.path(name));
    let [ca, certificate, key] = &tls;
    let tls = ["--ca", ca, "--cert", certificate, "--key", key];
    let called = run(&[&["instances", "create", "orders"], &tls[..]].concat());
    let said = String::from_utf8(called.stderr).unwrap();
    assert!(called.status.success(), "{said}");
    // What is to be typed next works as it is printed.
    let next = said.split('`').nth(1).unwrap();
    let typed: Vec<&str> = next.split(' ').skip(1).collect();
    let waited = run(&typed);
    assert!(waited.status.success(), "{next}: {waited:?}");

    let principal = run(&["config", "principal", certificate]);
    let principal = String::from_utf8(principal.stdout).unwrap();
    assert_eq!(principal, "cert:CN=rcgen self signed cert\n");
    let audit = run(&[&["audit", "list", "-ojson"], &tls[..]].concat());
    let audit: serde_json::Value = serde_json::from_slice(&audit.stdout).unwrap();
    assert_eq!(audit["auditRecords"][0]["principal"], principal.trim_end());
    for (file, why) in [
        (files.path("ambiguous.pem"), "the certificate names nobody"),
        (files.path("client.key"), "there is no certificate in it"),
    ] {
        let refused = run(&["config", "principal", &file]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

/// SIGHUP never ends it: by default it would, without a drain.
#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_the_files_and_nothing_else() {
    let files = Files::new();
    let options = Options::external()
        .await
        .with("HOWDAH_TLS_CERTIFICATE", files.path("server.pem"))
        .with("HOWDAH_TLS_KEY", files.path("server.key"));
    let howdah = Howdah::serve(options).await;
    let count = |line: &str| howdah.log().matches(line).count();
    let by_ca = ClientOptions {
        ca: Some(files.path("ca.pem").into()),
        ..ClientOptions::default()
    };
    list(&by_ca, &howdah).await.unwrap();

    fs::remove_file(files.path("server.key")).unwrap();
    for hangups in 1..=3 {
        signal(howdah.pid(), "HUP");
        eventually("it is heard", async || count("SIGHUP: ") == hangups).await;
    }
    eventually("it is noticed", async || {
        count("TLS files were not read") > 0
    })
    .await;
    files.fill();
    signal(howdah.pid(), "HUP");
    eventually("the new certificate is shown", async || {
        list(&by_ca, &howdah).await.is_ok()
    })
    .await;
    // A file that is away is told once, not at each look.
    assert_eq!(count("TLS files were not read"), 1, "{}", howdah.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_without_tls_is_heard_and_changes_nothing() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    signal(howdah.pid(), "HUP");
    eventually("it is heard", async || howdah.log().contains("SIGHUP: ")).await;
    howdah.instance("orders").await;
    assert!(howdah.stop().await.success());
}
