//! A server that goes silent after a login, as one does whose backend is frozen.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use howdah::{
    domain::{
        Reason,
        provider::{Presence, Provider},
    },
    providers::local::Local,
};
use tokio::time::timeout;

use crate::support::local::{Place, end, port, postmaster, server};

/// The end of a login: ReadyForQuery, in no transaction.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// Passes a login on, and nothing that the server says after it. The server's major version
/// is reported as `version`, of two digits.
fn login_only(mut client: UnixStream, server: &Path, version: &[u8; 2], silent: &mpsc::Sender<()>) {
    let mut server = UnixStream::connect(server).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 * 1024];
    let mut ready = false;
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        if ready {
            continue;
        }
        let bytes = &mut buffer[..read];
        let name = b"server_version\0";
        if let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            bytes[at + name.len()..][..2].copy_from_slice(version);
        }
        client.write_all(bytes).unwrap();
        ready = bytes.ends_with(READY);
        if ready {
            let _ = silent.send(());
        }
    }
    // The end of the server is not passed on either.
    let _ = client.read_exact(&mut [0]);
    std::thread::park();
}

/// Takes the place of a server's socket. The answer hears of each login.
fn silence(socket: PathBuf, version: &'static [u8; 2]) -> mpsc::Receiver<()> {
    let behind = socket.with_file_name("behind");
    if !behind.exists() {
        fs::rename(&socket, &behind).unwrap();
    }
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (behind, sender) = (behind.clone(), sender.clone());
            std::thread::spawn(move || login_only(client.unwrap(), &behind, version, &sender));
        }
    });
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_silent_holds_nobody_up() {
    let place = Place::new();
    let local: Local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    local.configure(&spec).await.unwrap();
    local.start(&spec).await.unwrap();
    let sockets = place.path().join("run").join(spec.uid.simple().to_string());
    let socket = sockets.join(format!(".s.PGSQL.{}", port(&spec)));
    // Version 17 gets one more statement after the login.
    for version in [b"15", b"17"] {
        let _logins = silence(socket.clone(), version);
        let inspected = timeout(Duration::from_secs(30), local.inspect(&spec)).await;
        let error = inspected.expect("it is given up").unwrap_err();
        assert_eq!(error.reason(), Reason::ServerUnavailable);
    }

    // Its end is seen, though the connection stays open.
    let logins = silence(socket, b"15");
    let pid = postmaster(&place.home(&spec)).unwrap();
    let kill = tokio::task::spawn_blocking(move || {
        logins.recv().unwrap();
        end(pid);
    });
    let looked = timeout(Duration::from_secs(4), local.inspect(&spec));
    let (looked, killed) = tokio::join!(looked, kill);
    killed.unwrap();
    assert_eq!(looked.expect("its end is seen").unwrap(), Presence::Stopped);
}
