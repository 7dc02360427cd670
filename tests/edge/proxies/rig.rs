//! nginx and HAProxy with the configurations that the documents show.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    edge::harness::Raw,
    support::{howdah::LIMIT, ports, scratch},
};

const PAGE: &str = include_str!("../../../docs/proxies.md");

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Nginx, Kind::Haproxy];

/// A server behind the proxy: its API and its admin port.
pub(crate) type Backend = (SocketAddr, SocketAddr);

/// A proxy that runs; it ends when it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    directory: TempDir,
    guard: Child,
}

impl Proxy {
    /// The proxy as the page has it, but for ports, the backends, and what is replaced.
    pub(crate) async fn start(kind: Kind, backends: &[Backend], replaced: &[(&str, &str)]) -> Self {
        let directory = scratch::directory("howdah-proxy-");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], ports::one()));
        let mut snippet = kind.with_backends(backends);
        let listen = ("127.0.0.1:7700", &*address.to_string());
        for (from, to) in replaced.iter().copied().chain([listen]) {
            assert!(snippet.contains(from), "{from}: {snippet}");
            snippet = snippet.replace(from, to);
        }
        let guard = kind.run(directory.path(), &snippet);
        let proxy = Self {
            address,
            directory,
            guard,
        };
        let end = Instant::now() + LIMIT;
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < end, "{kind:?}: {}", proxy.log());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        proxy
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(self.address).await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the proxy\n{}", self.log());
        }
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// The page's snippet, whose line about the server is there for each backend.
    fn with_backends(self, backends: &[Backend]) -> String {
        let fence = format!("```{}\n", self.name());
        let (_, snippet) = PAGE.split_once(&fence).expect("a snippet");
        let (snippet, _) = snippet.split_once("```").unwrap();
        let line = snippet.lines().find(|line| line.contains("127.0.0.1:7717"));
        let line = line.expect("a line about the server");
        let lines = backends.iter().enumerate().map(|(number, (api, admin))| {
            let line = line.replace("server one", &format!("server number-{number}"));
            let line = line.replace("7718", &admin.port().to_string());
            line.replace("127.0.0.1:7717", &api.to_string())
        });
        snippet.replace(line, &lines.collect::<Vec<_>>().join("\n"))
    }

    /// Runs it until this process ends, or the pipe to its guard is closed.
    fn run(self, directory: &Path, snippet: &str) -> Child {
        let file = directory.join("configuration");
        let (text, arguments) = match self {
            Self::Nginx => (
                nginx(snippet),
                ["-p", ".", "-e", "stderr", "-c", "configuration"].as_slice(),
            ),
            Self::Haproxy => (snippet.to_owned(), ["-f", "configuration"].as_slice()),
        };
        fs::write(file, text).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let script = r#""$@" & pid=$!; cat; kill -KILL $pid; wait"#;
        let (program, libraries) = program(self.name());
        Command::new("sh")
            .args(["-c", script, "guard"])
            .arg(program)
            .args(arguments)
            .env("LD_LIBRARY_PATH", libraries)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

/// nginx' file around a part about HTTP: one process, and nothing outside of a directory.
fn nginx(snippet: &str) -> String {
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let places = places.map(|place| format!("{place}_temp_path {place};"));
    format!(
        "daemon off;\nmaster_process off;\npid pid;\nerror_log stderr info;\n\
         events {{ }}\nhttp {{\naccess_log off;\n{}\n{snippet}\n}}\n",
        places.join("\n")
    )
}

/// The program, and where its libraries are, as `tools/install.sh proxies` leaves them; or
/// else the machine's own.
fn program(name: &str) -> (PathBuf, PathBuf) {
    let tools = std::env::var_os("HOWDAH_TEST_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"),
        PathBuf::from,
    );
    let place = tools.join("proxies/usr");
    let mut places = vec![place.join("sbin")];
    places.extend(["/usr/sbin", "/usr/bin", "/usr/local/sbin"].map(PathBuf::from));
    places.extend(["/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from));
    let mut programs = places.iter().map(|place| place.join(name));
    let program = programs
        .find(|program| program.exists())
        .unwrap_or_else(|| panic!("{name} is missing; install it with: tools/install.sh proxies"));
    let libraries = fs::read_dir(place.join("lib")).into_iter().flatten();
    let mut libraries = libraries.map(|entry| entry.unwrap().path());
    let libraries = libraries.find(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    (program, libraries.unwrap_or_default())
}
