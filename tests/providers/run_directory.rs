//! A run directory that goes and cannot be made again, as a user's runtime directory does
//! at a logout without linger.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use howdah::{
    domain::{
        Reason,
        provider::{Disposal, Goal, Next, Provider, ServerSpec, Started},
    },
    pg::Host,
    providers::local::{
        Local, Settings, default_run_directory,
        embedded::{Embedded, Options},
    },
};
use tokio::time::timeout;

use super::embedded::client;
use crate::support::local::{Place, connect, end, port, postmaster, server};

/// How long something may take that happens soon.
const LONG: Duration = Duration::from_secs(20);

/// A run directory behind a link, so that what is above it can be exchanged.
struct Runtime {
    link: PathBuf,
}

impl Runtime {
    fn new(place: &Place) -> Self {
        let link = place.path().join("link");
        let runtime = Self { link };
        runtime.back(&place.path().join("first"));
        runtime
    }

    fn run_directory(&self) -> PathBuf {
        self.link.join("howdah/run")
    }

    /// What was there is gone. Nothing can be made in /proc, not even by root.
    fn gone(&self) {
        let _ = fs::remove_file(&self.link);
        symlink("/proc", &self.link).unwrap();
    }

    /// There is an empty directory.
    fn back(&self, empty: &Path) {
        let _ = fs::remove_file(&self.link);
        fs::create_dir(empty).unwrap();
        symlink(empty, &self.link).unwrap();
    }
}

fn is_in_tmp(directory: &Path) -> bool {
    let own = format!("/tmp/howdah-{}", rustix::process::geteuid().as_raw());
    directory.starts_with(own)
}

fn embedded(place: &Place, runtime: &Runtime) -> Options {
    Options {
        run_directory: runtime.run_directory(),
        ..place.embedded()
    }
}

/// Something in the place of the directory in /tmp, so that no socket can be made there.
struct Blocked(PathBuf);

impl Blocked {
    fn new(runtime: &Runtime) -> Self {
        let name = default_run_directory(&runtime.run_directory());
        let base = format!("/tmp/howdah-{}", rustix::process::geteuid().as_raw());
        fs::create_dir_all(&base).unwrap();
        let path = Path::new(&base).join(name.file_name().unwrap());
        fs::write(&path, "").unwrap();
        Self(path)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_metadata_server_that_would_not_come_back_is_left_alone() {
    let place = Place::new();
    let runtime = Runtime::new(&place);
    let home = place.path().join("state/metadata");
    let options = embedded(&place, &runtime);
    let embedded = Embedded::open(options).await.unwrap();
    let held = client(&embedded.access()).await;
    let pid = postmaster(&home);
    runtime.gone();
    let blocked = Blocked::new(&runtime);
    let mut ended = Box::pin(embedded.ended());
    let waits = timeout(Duration::from_secs(5), &mut ended).await;
    waits.unwrap_err();
    let error = embedded.restart().await.unwrap_err();
    assert_eq!(error.reason(), Reason::DataDirUnwritable);
    assert_eq!(postmaster(&home), pid);
    held.batch_execute("select 1").await.unwrap();
    runtime.back(&place.path().join("second"));
    let ended = timeout(LONG, ended).await;
    ended.unwrap().unwrap();
    assert_eq!(embedded.restart().await.unwrap(), Started::Now);
    client(&embedded.access()).await;
    drop(blocked);
}

#[tokio::test]
async fn a_metadata_server_is_restarted_where_a_directory_can_be_made() {
    let place = Place::new();
    let runtime = Runtime::new(&place);
    let home = place.path().join("state/metadata");
    let options = embedded(&place, &runtime);
    let embedded = Embedded::open(options.clone()).await.unwrap();
    runtime.gone();
    timeout(LONG, embedded.ended()).await.unwrap().unwrap();
    assert_eq!(embedded.restart().await.unwrap(), Started::Now);
    let instead = embedded.access();
    assert!(is_in_tmp(&instead.socket_directory), "{instead:?}");
    client(&instead).await;
    // Nothing has happened: it stays where it is.
    assert_eq!(embedded.restart().await.unwrap(), Started::Before);
    client(&instead).await;

    runtime.back(&place.path().join("second"));
    end(postmaster(&home).unwrap());
    timeout(LONG, embedded.ended()).await.unwrap().unwrap();
    assert_eq!(embedded.restart().await.unwrap(), Started::Now);
    let back = embedded.access();
    let expected = runtime.run_directory().join("metadata");
    assert_eq!(back.socket_directory, expected);
    client(&back).await;
    assert!(!instead.socket_directory.exists());
    let beside = Embedded::attach(&options).await.unwrap().unwrap();
    assert_eq!(beside.access().socket_directory, expected);
}

#[tokio::test]
async fn a_metadata_server_starts_where_a_directory_can_be_made() {
    let place = Place::new();
    let runtime = Runtime::new(&place);
    let options = embedded(&place, &runtime);
    drop(Embedded::open(options.clone()).await.unwrap());
    // It runs, and no new connection reaches it.
    runtime.gone();
    let instead = Embedded::open(options.clone()).await.unwrap();
    assert_eq!(instead.started(), Started::Now);
    let access = instead.access();
    assert!(is_in_tmp(&access.socket_directory), "{access:?}");
    client(&access).await;
    let beside = Embedded::attach(&options).await.unwrap().unwrap();
    assert_eq!(beside.access().socket_directory, access.socket_directory);
    runtime.back(&place.path().join("second"));
    let adopted = Embedded::open(options.clone()).await.unwrap();
    assert_eq!(adopted.started(), Started::Before);
    adopted.stop().await.unwrap();
    let back = Embedded::open(options).await.unwrap().access();
    let expected = runtime.run_directory().join("metadata");
    assert_eq!(back.socket_directory, expected);
    assert!(!access.socket_directory.exists());
    client(&back).await;
}

/// Brings the server up, and keeps what is learnt of it.
async fn run(local: &Local, spec: &mut ServerSpec) {
    for _ in 0..10 {
        let advance = local
            .advance(spec, Goal::Running, Duration::ZERO.into())
            .await;
        let advance = advance.unwrap();
        let learnt = advance.learnt;
        spec.system_identifier = learnt.system_identifier.or(spec.system_identifier);
        spec.address = learnt.address.or(spec.address.take());
        if matches!(advance.next, Next::Done) {
            return;
        }
    }
    panic!("it does not run");
}

#[tokio::test]
async fn a_server_starts_where_a_directory_can_be_made() {
    let place = Place::new();
    let runtime = Runtime::new(&place);
    let settings = Settings {
        run_directory: runtime.run_directory(),
        ..place.settings()
    };
    let local = Local::new(settings).unwrap();
    let mut spec = server(&local);
    spec.ephemeral = true;
    runtime.gone();
    run(&local, &mut spec).await;
    let sockets = |spec: &ServerSpec| spec.address.clone().unwrap().socket_directory.unwrap();
    let instead = sockets(&spec);
    assert!(is_in_tmp(&instead), "{instead:?}");
    assert_eq!(
        local.address(&spec).socket_directory.as_ref(),
        Some(&instead)
    );
    connect(Host::Unix(instead.clone()), port(&spec))
        .await
        .unwrap();
    // It stays there until the next start.
    runtime.back(&place.path().join("second"));
    run(&local, &mut spec).await;
    assert_eq!(sockets(&spec), instead);
    local.stop(&spec).await.unwrap();
    run(&local, &mut spec).await;
    assert!(sockets(&spec).starts_with(runtime.run_directory()));
    assert!(!instead.exists());
    connect(Host::Unix(sockets(&spec)), port(&spec))
        .await
        .unwrap();
    // What lies in /tmp goes with the server.
    local.stop(&spec).await.unwrap();
    runtime.gone();
    run(&local, &mut spec).await;
    let instead = sockets(&spec);
    runtime.back(&place.path().join("third"));
    local.remove(&spec, Disposal::Delete).await.unwrap();
    assert!(!instead.exists());
}
