//! Servers whose lock somebody holds for long.

use std::{
    fs::{self, OpenOptions},
    process::{Child, Command, Stdio},
    time::Duration,
};

use howdah::{
    domain::{
        Reason,
        provider::{Advance, Disposal, Goal, Next, Presence, Provider, ServerSpec, Started},
    },
    providers::local::{Local, Settings},
};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};

use crate::support::local::{Place, server};

/// Longer than another process is waited for.
const LONG: Duration = Duration::from_secs(10 * 60);
const SHORT: Duration = Duration::from_secs(1);

async fn made(place: &Place, local: &Local) -> ServerSpec {
    let mut spec = server(local);
    spec.ephemeral = true;
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    local.configure(&spec).await.unwrap();
    assert!(place.home(&spec).exists());
    spec
}

/// Another process that holds the server's lock.
fn holder(place: &Place, spec: &ServerSpec) -> Child {
    let path = place.path().join(format!("local/locks/{}", spec.uid));
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let sleep = Command::new("sleep").arg("600").stdin(lock).spawn();
    sleep.unwrap()
}

fn waits_for(advance: Advance) -> String {
    match advance.next {
        Next::Later(wait) => wait.waits_for.into_owned(),
        Next::Done => panic!("it does not wait"),
    }
}

/// Waits for a lock as long as a process that serves.
fn hasty(place: &Place) -> Local {
    let settings = Settings {
        lock_timeout: Duration::from_secs(1),
        ..place.settings()
    };
    Local::new(settings).unwrap()
}

#[tokio::test]
async fn a_removal_names_the_process_that_holds_the_server_and_ends() {
    let place = Place::new();
    let local = hasty(&place);
    let spec = made(&place, &local).await;
    let mut other = holder(&place, &spec);
    let pid = other.id();
    let gone = Goal::Gone(Disposal::Delete);
    let killed = Goal::StoppedAtAnyCost { patience: SHORT };
    let waits = local.advance(&spec, gone, SHORT.into()).await.unwrap();
    let who = format!("process {pid} (sleep), which works on the server");
    assert_eq!(waits_for(waits), who);

    let process = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    while !stat().contains(") T ") {
        tokio::task::yield_now().await;
    }
    for goal in [gone, killed] {
        let error = local.advance(&spec, goal, LONG.into()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::LockTimeout);
        let advice = format!("`kill -CONT {pid}` lets it go on");
        assert!(error.message().contains(&advice), "{error}");
    }
    // Nothing was removed under it. A start may take longer, and waits.
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Stopped);
    let waits = local
        .advance(&spec, Goal::Running, LONG.into())
        .await
        .unwrap();
    assert_eq!(waits_for(waits), format!("{who} and is stopped"));

    other.kill().unwrap();
    other.wait().unwrap();
    let advance = local.advance(&spec, gone, LONG.into()).await.unwrap();
    assert!(matches!(advance.next, Next::Done));
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
}

#[tokio::test]
async fn a_startup_log_that_nobody_reads_holds_up_no_start() {
    let place = Place::new();
    let local = hasty(&place);
    let spec = made(&place, &local).await;
    let log = place.home(&spec).join("startup.log");
    for _ in 0..2 {
        let _ = fs::remove_file(&log);
        let made = Command::new("mkfifo")
            .arg(&log)
            .stdin(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        assert_eq!(local.start(&spec).await.unwrap(), Started::Now);
        assert!(fs::symlink_metadata(&log).unwrap().is_file());
        local.stop(&spec).await.unwrap();
    }
    let aside = place.home(&spec).join("startup.log.stale0");
    assert!(!fs::symlink_metadata(aside).unwrap().is_file());
}
