//! What stands in the way of a server.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, lchown, symlink},
        net::UnixListener,
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use howdah::{
    domain::{
        Reason,
        provider::{Disposal, Goal, Next, Presence, Provider, ServerSpec, Started},
    },
    pg::Host,
    providers::local::{Local, Settings},
};

use rustix::process::{Pid, Signal, kill_process};
use secrecy::SecretString;

use crate::support::local::{Place, connect, end, port, postmaster, runs, server};

/// A server that was made, and never started.
async fn made() -> (Place, Local, ServerSpec) {
    let place = Place::new();
    let local = place.local();
    let mut spec = server(&local);
    spec.ephemeral = true;
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    local.configure(&spec).await.unwrap();
    (place, local, spec)
}

/// A server that runs.
async fn started() -> (Place, Local, ServerSpec) {
    let (place, local, spec) = made().await;
    local.start(&spec).await.unwrap();
    (place, local, spec)
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let (_place, local, spec) = made().await;
    let taken = TcpListener::bind(("127.0.0.1", port(&spec))).unwrap();
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
    let (place, local, spec) = started().await;
    let home = place.home(&spec);
    let file = home.join("data/postmaster.pid");
    let pid = postmaster(&home).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    // PostgreSQL itself goes on for ever with the first, and up to a minute with others.
    let cut = format!("{}\n", pid.as_raw_nonzero());
    for damage in [&cut, "", "cut", "1\n", "99999999999\n"] {
        fs::write(&file, damage).unwrap();
        let presence = local.inspect(&spec).await.unwrap();
        assert_eq!(presence, Presence::Running, "{damage:?}");
        let started = local.start(&spec).await.unwrap();
        assert_eq!(started, Started::Before, "{damage:?}");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Running);
    fs::remove_dir(&file).unwrap();
    let stopped = local
        .advance(&spec, Goal::Stopped, Duration::ZERO.into())
        .await;
    assert!(matches!(stopped.unwrap().next, Next::Done));
    assert!(!runs(pid));
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Stopped);
    let log = server_log(&home);
    assert!(log.contains("received fast shutdown request"), "{log}");

    // Processes without a postmaster are named, and killed where the data goes too.
    local.start(&spec).await.unwrap();
    assert_ne!(fs::read_to_string(&file).unwrap(), text);
    let orphans = freeze_processes(&home);
    end(postmaster(&home).unwrap());
    let hasty = Local::new(Settings {
        stop_timeout: Duration::from_millis(300),
        ..place.settings()
    });
    let error = hasty.unwrap().stop(&spec).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ServerNotStopped);
    let named = orphans.iter().any(|pid| error.message().contains(pid));
    assert!(named && error.message().contains("kill -QUIT"), "{error:?}");
    let patience = Duration::ZERO;
    let goal = Goal::StoppedAtAnyCost { patience };
    let stopped = local.advance(&spec, goal, Duration::ZERO.into()).await;
    assert!(matches!(stopped.unwrap().next, Next::Done));
    assert_eq!(local.start(&spec).await.unwrap(), Started::Now);
}

/// Stops the processes of a running server but its postmaster (SIGSTOP), and returns
/// their ids.
fn freeze_processes(home: &Path) -> Vec<String> {
    let parent = postmaster(home).unwrap().as_raw_nonzero().to_string();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let pids: Vec<String> = children.split_whitespace().map(str::to_owned).collect();
    for pid in &pids {
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
    }
    pids
}

fn server_log(home: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(home.join("log")).unwrap() {
        text += &fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    text
}

/// A process of the user that servers run as, which has nothing to do with one.
struct Stranger(Child);

impl Stranger {
    fn new(data: &Path) -> Self {
        let mut stranger = Command::new("sleep");
        stranger.arg("600").current_dir("/").stdin(Stdio::null());
        if rustix::process::geteuid().is_root() {
            let facts = fs::metadata(data).unwrap();
            stranger.uid(facts.uid()).gid(facts.gid());
        }
        Self(stranger.spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Whatever lies in the place of the pid file of a server that is down, or of the lock
/// file of its socket, it is stopped, looked at and started as if it was not there.
#[tokio::test]
async fn no_pid_file_keeps_a_server_down() {
    let (place, local, spec) = started().await;
    let home = place.home(&spec);
    let data = home.join("data");
    let file = data.join("postmaster.pid");
    let facts = fs::metadata(&data).unwrap();
    let mut stranger = Stranger::new(&data);
    let text = fs::read_to_string(&file).unwrap();
    let (gone, rest) = text.split_once('\n').unwrap();
    let sockets = place.path().join("run").join(spec.uid.simple().to_string());
    let lock = sockets.join(format!(".s.PGSQL.{}.lock", port(&spec)));
    let reused = format!("{}\n{rest}", stranger.0.id());
    let elsewhere = rest.replace(&*data.to_string_lossy(), "/elsewhere");
    let first = format!("{gone}\n");
    let foreign = format!("1\n{rest}");
    let moved = format!("{gone}\n{elsewhere}");
    let beyond = format!("4194999\n{rest}");
    let long = format!("99999999999\n{rest}");
    let texts = [
        &reused, &first, &foreign, &moved, &beyond, &long, "", "\0\0",
    ];
    for number in 0..texts.len() + 4 {
        let pid = postmaster(&home).unwrap();
        tokio::task::spawn_blocking(move || end(pid)).await.unwrap();
        let _ = fs::remove_file(&file);
        match number.checked_sub(texts.len()) {
            None => fs::write(&file, texts[number]).unwrap(),
            Some(0) => fs::create_dir(&file).unwrap(),
            Some(1) => symlink("/nowhere", &file).unwrap(),
            Some(2) => {
                fs::write(&file, &first).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
            }
            Some(_) => drop(UnixListener::bind(&file).unwrap()),
        }
        // Of the socket, each start meets something else, too.
        let socket_lock = [&reused, "", "\0"][number % 3];
        fs::write(&lock, socket_lock).unwrap();
        for path in [&file, &lock] {
            lchown(path, Some(facts.uid()), Some(facts.gid())).unwrap();
        }
        let presence = local.inspect(&spec).await.unwrap();
        assert_eq!(presence, Presence::Stopped, "{number}");
        local.changed(&spec, Presence::Running).await.unwrap();
        local.stop(&spec).await.unwrap();
        let started = local.start(&spec).await;
        assert_eq!(started.unwrap(), Started::Now, "{number}");
    }
    let alive = stranger.0.try_wait().unwrap().is_none();
    assert!(alive, "a stranger was stopped");
    // A server can be removed whatever is there.
    local.stop(&spec).await.unwrap();
    fs::create_dir(&file).unwrap();
    local.remove(&spec, Disposal::Delete).await.unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
}

/// What may be another server's is not removed, and is said.
#[tokio::test]
async fn a_socket_that_another_server_has_is_left() {
    let (place, local, spec) = started().await;
    local.stop(&spec).await.unwrap();
    let sockets = place.path().join("run").join(spec.uid.simple().to_string());
    let socket = sockets.join(format!(".s.PGSQL.{}", port(&spec)));
    let listener = UnixListener::bind(&socket).unwrap();
    let error = local.start(&spec).await.unwrap_err();
    assert_eq!(error.reason(), Reason::PortTaken);
    assert!(error.message().contains(&*socket.to_string_lossy()));
    assert!(socket.exists());
    drop(listener);
    assert_eq!(local.start(&spec).await.unwrap(), Started::Now);
}

/// A server whose socket was removed is reached by TCP, and has it again after a restart.
#[tokio::test]
async fn a_server_outlives_its_socket() {
    let (place, local, spec) = started().await;
    let sockets = place.path().join("run");
    let seen = local.changed(&spec, Presence::Running);
    let remove = async { fs::remove_dir_all(&sockets).unwrap() };
    let (seen, ()) = tokio::join!(seen, remove);
    seen.unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::SocketGone);
    let address = local.address(&spec);
    assert_eq!(
        (address.host.as_str(), &address.socket_directory),
        ("127.0.0.1", &None)
    );
    connect(Host::Tcp(address.host), address.port)
        .await
        .unwrap();
    assert_eq!(local.start(&spec).await.unwrap(), Started::Before);
    local.stop(&spec).await.unwrap();
    assert_eq!(local.start(&spec).await.unwrap(), Started::Now);
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Running);
    let directory = local.address(&spec).socket_directory.unwrap();
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    connect(Host::Unix(directory), port(&spec)).await.unwrap();
    fs::remove_dir_all(&sockets).unwrap();
    local.remove(&spec, Disposal::Delete).await.unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
}

/// The directory of the sockets was changed, and the server has its own where it was.
#[tokio::test]
async fn a_socket_where_former_settings_put_it_is_found() {
    let (place, _, spec) = started().await;
    let former = place.path().join("run").join(spec.uid.simple().to_string());
    let local = |loopback: bool| {
        let address = if loopback { "127.0.0.1" } else { "127.0.0.2" };
        let settings = Settings {
            run_directory: place.path().join("other"),
            listen_addresses: vec![address.parse().unwrap()],
            ..place.settings()
        };
        Local::new(settings).unwrap()
    };
    let moved = local(true);
    let presence = moved.inspect(&spec).await.unwrap();
    assert_eq!(presence, Presence::SocketElsewhere);
    assert_eq!(moved.address(&spec).host, "127.0.0.1");
    moved.stop(&spec).await.unwrap();
    moved.configure(&spec).await.unwrap();
    moved.start(&spec).await.unwrap();
    assert_eq!(moved.inspect(&spec).await.unwrap(), Presence::Running);

    // One that listens on no loopback address is reached by the socket.
    moved.stop(&spec).await.unwrap();
    let settings = Settings {
        listen_addresses: vec!["127.0.0.2".parse().unwrap()],
        ..place.settings()
    };
    let first = Local::new(settings).unwrap();
    first.configure(&spec).await.unwrap();
    first.start(&spec).await.unwrap();
    let moved = local(false);
    let presence = moved.inspect(&spec).await.unwrap();
    assert_eq!(presence, Presence::SocketElsewhere);
    assert_eq!(moved.address(&spec).socket_directory, Some(former));
    moved.stop(&spec).await.unwrap();
}

/// One that listens nowhere else says what is missing and how to get it back.
#[tokio::test]
async fn a_server_without_socket_and_loopback_says_so() {
    let (place, _, spec) = made().await;
    let settings = Settings {
        listen_addresses: vec!["127.0.0.2".parse().unwrap()],
        ..place.settings()
    };
    let local = Local::new(settings).unwrap();
    local.configure(&spec).await.unwrap();
    local.start(&spec).await.unwrap();
    fs::remove_dir_all(place.path().join("run")).unwrap();
    let error = local.inspect(&spec).await.unwrap_err();
    assert_eq!(error.reason(), Reason::ServerUnavailable);
    let message = error.message();
    assert!(
        message.contains("socket") && message.contains("restart"),
        "{message}"
    );
    local.stop(&spec).await.unwrap();
    assert_eq!(local.start(&spec).await.unwrap(), Started::Now);
}

/// A template is only a copy of what initdb makes: one that is damaged, or gone with its
/// directory, is made anew.
#[tokio::test]
async fn a_damaged_or_lost_template_is_made_anew() {
    let place = Place::new();
    let local = place.local();
    let ephemeral = || {
        let mut spec = server(&local);
        spec.ephemeral = true;
        spec
    };
    let templates = place.path().join("local/templates");
    local.initialize(&ephemeral()).await.unwrap();
    let template = || {
        let mut entries = fs::read_dir(&templates).unwrap();
        let entry = entries.next().unwrap().unwrap();
        assert!(entries.next().is_none(), "nothing is left beside it");
        entry.path().join("data")
    };
    fs::remove_file(template().join("global/pg_control")).unwrap();
    local.initialize(&ephemeral()).await.unwrap();
    fs::remove_file(template().join("PG_VERSION")).unwrap();
    local.initialize(&ephemeral()).await.unwrap();
    // Found only by who uses the copy.
    fs::remove_dir_all(template().join("base")).unwrap();
    local.initialize(&ephemeral()).await.unwrap();
    for name in ["templates", "trash", "parameters"] {
        fs::remove_dir_all(place.path().join("local").join(name)).unwrap();
    }
    let mut spec = ephemeral();
    spec.system_identifier = Some(local.initialize(&spec).await.unwrap());
    local.configure(&spec).await.unwrap();
    local.start(&spec).await.unwrap();
    local
        .remove(&spec, Disposal::Trash(chrono::Utc::now()))
        .await
        .unwrap();
    assert_eq!(local.inspect(&spec).await.unwrap(), Presence::Missing);
}
