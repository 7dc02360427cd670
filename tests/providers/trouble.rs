//! What stands in the way of a server.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::MetadataExt, fs::chown, process::CommandExt},
    process::{Command, Stdio},
    time::Duration,
};

use howdah::{
    domain::{
        Reason,
        provider::{Goal, Next, Presence, Provider, Started},
    },
    providers::local::{Local, Settings},
};

use secrecy::SecretString;

use crate::support::local::{Place, end, port, postmaster, server};

#[tokio::test]
async fn a_taken_port_is_named() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    let taken = TcpListener::bind(("127.0.0.1", port(&spec))).unwrap();
    local.configure(&spec).await.unwrap();
    let error = local.start(&spec).await.unwrap_err();
    assert_eq!(error.reason(), Reason::PortTaken);
    let expected = format!("port {} is in use by another process", port(&spec));
    assert_eq!(error.message(), expected);
    assert!(error.internal_detail().contains("Address already in use"));
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Stopped);
    drop(taken);
    assert_eq!(local.start(&spec).await.unwrap(), Started::Now);
}

#[tokio::test]
async fn a_reused_pid_does_not_keep_a_server_down() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    local.configure(&spec).await.unwrap();
    local.start(&spec).await.unwrap();
    let home = place.home(&spec);
    let file = home.join("data/postmaster.pid");
    let text = fs::read_to_string(&file).unwrap();
    let pid = postmaster(&home).unwrap();
    tokio::task::spawn_blocking(move || end(pid)).await.unwrap();

    // A process of the same user that has nothing to do with the server.
    let facts = fs::metadata(home.join("data")).unwrap();
    let mut stranger = Command::new("sleep");
    stranger.arg("600").current_dir("/").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        stranger.uid(facts.uid()).gid(facts.gid());
    }
    let mut stranger = stranger.spawn().unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    let reused = format!("{}\n{rest}", stranger.id());
    fs::write(&file, reused).unwrap();
    chown(&file, Some(facts.uid()), Some(facts.gid())).unwrap();

    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Stopped);
    local.ended(&spec).await.unwrap();
    local.stop(&spec).await.unwrap();
    assert!(
        stranger.try_wait().unwrap().is_none(),
        "a stranger was stopped"
    );
    let started = local.start(&spec).await;
    let alive = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(alive);
    assert_eq!(started.unwrap(), Started::Now);
}

#[tokio::test]
async fn another_server_is_not_taken_for_the_one_on_record() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    let identifier = local.initialize(&spec).await.unwrap();
    spec.system_identifier = Some(identifier ^ 1);
    let mismatch = Reason::ServerMismatch;
    assert_eq!(
        local.initialize(&spec).await.unwrap_err().reason(),
        mismatch
    );
    assert_eq!(local.inspect(&spec).await.unwrap_err().reason(), mismatch);
    assert_eq!(local.start(&spec).await.unwrap_err().reason(), mismatch);
    // A lost directory is not replaced by an empty one.
    fs::rename(place.home(&spec), place.path().join("lost")).unwrap();
    assert_eq!(
        local.initialize(&spec).await.unwrap_err().reason(),
        mismatch
    );
    assert_eq!(local.configure(&spec).await.unwrap_err().reason(), mismatch);
    assert_eq!(local.start(&spec).await.unwrap_err().reason(), mismatch);
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
}

#[tokio::test]
async fn a_damaged_configuration_fails_with_its_reason() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    local.initialize(&spec).await.unwrap();
    spec.parameters.insert("work_mem".into(), "much".into());
    local.configure(&spec).await.unwrap();
    let error = local.start(&spec).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ServerStartFailed);
    assert!(error.internal_detail().contains("work_mem"), "{error:?}");
    spec.parameters.clear();
    local.configure(&spec).await.unwrap();
    assert_eq!(local.start(&spec).await.unwrap(), Started::Now);
}

#[tokio::test]
async fn places_that_cannot_be_used_are_refused() {
    let place = Place::new();
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = |settings: Settings| Local::new(settings).unwrap_err().reason();
    let at = |root: &str| Settings {
        root: place.path().join(root),
        ..place.settings()
    };
    assert_eq!(refused(at("file/root")), Reason::DataDirUnwritable);
    assert_eq!(refused(at("a$b")), Reason::ConfigInvalid);
    let long = Settings {
        run_directory: place.path().join("x".repeat(90)),
        ..place.settings()
    };
    assert_eq!(refused(long), Reason::ConfigInvalid);
    let unknown = Settings {
        run_as: Some("nobody-of-that-name".into()),
        ..place.settings()
    };
    assert_eq!(refused(unknown), Reason::ConfigInvalid);
    if rustix::process::geteuid().is_root() {
        let root = Settings {
            run_as: Some("root".into()),
            ..place.settings()
        };
        assert_eq!(refused(root), Reason::ConfigInvalid);
    }
    // Nothing can be made in /proc, not even by root.
    let unwritable = Settings {
        root: "/proc/howdah".into(),
        ..place.settings()
    };
    let reason = refused(unwritable);
    assert!(matches!(reason, Reason::DataDirUnwritable), "{reason:?}");
}

#[tokio::test]
async fn a_failed_initialization_leaves_nothing() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    // initdb refuses an empty password.
    spec.admin_password = SecretString::from("");
    let error = local.initialize(&spec).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ServerStartFailed);
    assert!(error.internal_detail().contains("password"), "{error:?}");
    let left = fs::read_dir(place.path().join("local/servers")).unwrap();
    assert_eq!(left.count(), 0);
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
}

#[tokio::test]
async fn a_missing_version_is_named() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.version.major = 99;
    let error = local.initialize(&spec).await.unwrap_err();
    assert_eq!(error.reason(), Reason::VersionNotInstalled);
    assert!(error.message().contains("99."));
}

/// A server that works without its pid file is not taken for stopped.
#[tokio::test]
async fn a_lost_pid_file_hides_no_server() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    local.configure(&spec).await.unwrap();
    local.start(&spec).await.unwrap();
    let home = place.home(&spec);
    let file = home.join("data/postmaster.pid");
    let pid = postmaster(&home).unwrap();
    let later = Duration::from_secs(1);
    for damage in ["", "cut", "1\n"] {
        fs::write(&file, damage).unwrap();
        let looked = local.advance(&spec, Goal::Stopped, later).await.unwrap();
        assert!(
            matches!(looked.next, Next::Later(_)),
            "{damage:?}: {looked:?}"
        );
    }
    fs::remove_file(&file).unwrap();
    let looked = local.advance(&spec, Goal::Stopped, later).await.unwrap();
    assert!(matches!(looked.next, Next::Later(_)), "removed: {looked:?}");
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());

    let patience = Duration::ZERO;
    let goal = Goal::StoppedAtAnyCost { patience };
    let stopped = local.advance(&spec, goal, later).await.unwrap();
    assert!(matches!(stopped.next, Next::Done));
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Stopped);
}
