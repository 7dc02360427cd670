//! A server that takes long to start.

use std::{
    fs,
    io::Write,
    time::{Duration, Instant},
};

use howdah::{
    domain::provider::{Goal, Next, Provider, ServerSpec},
    providers::local::Local,
};

use crate::support::local::{Place, server};

/// Looks at the server on its way up, and says how long that took.
async fn look(local: &Local, spec: &mut ServerSpec, since: Duration) -> (Next, Duration) {
    loop {
        let begin = Instant::now();
        let advance = local
            .advance(spec, Goal::Running, since.into())
            .await
            .unwrap();
        let learnt = advance.learnt;
        spec.system_identifier = learnt.system_identifier.or(spec.system_identifier);
        spec.address = learnt.address.or(spec.address.take());
        match advance.next {
            Next::Later(wait) if wait.waits_for == "its start" => {}
            next => return (next, begin.elapsed()),
        }
    }
}

/// One that waits for its log to be restored is starting until the file `gate` is there.
#[tokio::test]
async fn a_server_that_recovers_holds_no_worker() {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    let data = place.home(&spec).join("data");
    let mut settings = fs::OpenOptions::new()
        .append(true)
        .open(data.join("postgresql.auto.conf"))
        .unwrap();
    let restore = "while [ ! -e gate ]; do sleep 0.1; done; exit 1";
    writeln!(settings, "restore_command = '{restore}'").unwrap();
    fs::write(data.join("recovery.signal"), "").unwrap();

    for (since, most) in [(0, 3000), (4, 900), (6, 900)] {
        let (next, took) = look(&local, &mut spec, Duration::from_secs(since)).await;
        let Next::Later(wait) = next else {
            panic!("it is not ready");
        };
        assert_eq!(wait.waits_for, "the server to take connections");
        assert!(took < Duration::from_millis(most), "{since}: {took:?}");
    }
    fs::write(data.join("gate"), "").unwrap();
    let begin = Instant::now();
    while !matches!(
        look(&local, &mut spec, Duration::from_secs(8)).await.0,
        Next::Done
    ) {
        assert!(begin.elapsed() < Duration::from_secs(60), "it is ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // One that starts as most do is up at the first look.
    local.stop(&spec).await.unwrap();
    let (next, _) = look(&local, &mut spec, Duration::ZERO).await;
    assert!(matches!(next, Next::Done));
}
