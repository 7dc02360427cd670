//! Finds the PostgreSQL installations of this machine.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::{task::JoinSet, time::Instant};

use super::{
    NAME,
    command::{self, command},
    directory::blocking,
    failure,
    user::RunAs,
};
use crate::domain::{
    Result,
    engine::{Engine, TOOLS},
    version::Version,
};

/// Longest time that a program may take to print its version.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a program that hung is not asked again.
const REST: Duration = Duration::from_secs(60);

/// Usual directories of installations: a parent directory, and the prefix of the installation
/// directories in it. The programs lie in `bin` below each of them.
const USUAL: &[(&str, &str)] = &[
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql"),
    ("/usr/local/opt", "postgresql"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql"),
    ("/usr/local", "pgsql"),
];

/// Cache of what programs printed and of what was read from them. An answer is valid while the
/// program's file stays the same. A program that failed is asked again at the next call, because
/// the machine may have been short of processes. A program that hung would delay each call by
/// [`LIMIT`], so it is asked again only after [`REST`], in the background.
#[derive(Debug, Default)]
struct Known {
    said: HashMap<Question, (Stamp, String)>,
    hung: HashMap<Question, (Stamp, Instant)>,
    linked: HashMap<PathBuf, (Stamp, Features)>,
}

/// Arguments of such a call, for example `--version`.
type Arguments = &'static [&'static str];

/// A program and the arguments that it is run with.
type Question = (PathBuf, Arguments);

/// Result of running a program.
enum Answer {
    Said(String),
    Failed,
    Hung,
}

/// What the cache says about a question.
enum Memory {
    /// The program has answered with this text.
    Said(String),
    /// The program hung. `rested` is set for the one caller that shall ask it again.
    Hung {
        rested: bool,
    },
    Nothing,
}

impl Known {
    /// Looks a question up. When a program has rested long enough, exactly one caller gets
    /// `rested`: the call restarts the rest.
    fn recall(&mut self, question: &Question, stamp: Stamp) -> Memory {
        if let Some((then, text)) = self.said.get(question)
            && *then == stamp
        {
            return Memory::Said(text.clone());
        }
        match self.hung.get_mut(question) {
            Some((then, since)) if *then == stamp => {
                let rested = since.elapsed() >= REST;
                if rested {
                    *since = Instant::now();
                }
                Memory::Hung { rested }
            }
            Some(_) | None => Memory::Nothing,
        }
    }

    /// Stores an answer, and returns its text.
    fn keep(&mut self, question: Question, stamp: Stamp, answer: Answer) -> Option<String> {
        self.hung.remove(&question);
        match answer {
            Answer::Said(text) => {
                self.said.insert(question, (stamp, text.clone()));
                Some(text)
            }
            Answer::Failed => None,
            Answer::Hung => {
                self.hung.insert(question, (stamp, Instant::now()));
                None
            }
        }
    }
}

/// Detects that a file has changed. It holds the time of the inode's last change (ctime), which
/// this machine sets. The time of the last write (mtime) would come from the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

/// A client program on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientProgram {
    /// Version that the program prints.
    pub(crate) version: Version,
    /// Path of the program.
    pub(crate) program: PathBuf,
}

/// Finds installations and caches their properties.
#[derive(Debug)]
pub(crate) struct Discovery {
    configured: Vec<PathBuf>,
    system: bool,
    run_as: RunAs,
    known: Arc<Mutex<Known>>,
    // Calls in the background; aborted when dropped.
    asking: Mutex<JoinSet<()>>,
}

/// The installations on this machine, newest first. Changes nothing on the machine. `configured`
/// directories come before the usual directories, which are searched only if `system` is set. The
/// programs must be executable for the user `run_as`.
///
/// # Errors
/// CONFIG_INVALID when the user does not exist.
pub async fn installations(
    configured: Vec<PathBuf>,
    system: bool,
    run_as: Option<&str>,
) -> Result<Vec<Engine>> {
    Discovery::new(configured, system, RunAs::resolve(run_as)?)
        .engines()
        .await
}

impl Discovery {
    /// Searches `configured`, then the usual directories if `system` is set.
    pub(crate) fn new(configured: Vec<PathBuf>, system: bool, run_as: RunAs) -> Self {
        Self {
            configured,
            system,
            run_as,
            known: Arc::default(),
            asking: Mutex::default(),
        }
    }

    /// The installations, newest first. Among equal versions the configured order decides.
    pub(crate) async fn engines(&self) -> Result<Vec<Engine>> {
        let directories = self.directories().await;
        let found = join_all(directories.iter().map(|place| self.engine(place))).await;
        let mut engines: Vec<Engine> = found.into_iter().flatten().collect();
        engines.sort_by_key(|engine| std::cmp::Reverse(engine.version));
        Ok(engines)
    }

    /// The client programs of that name, such as `pg_dump`, oldest first. They may lie in a
    /// directory without a server: distributions have separate packages for them.
    pub(crate) async fn clients(&self, name: &str) -> Vec<ClientProgram> {
        let directories = self.directories().await;
        let found = directories.iter().map(|place| place.join(name));
        let found = found.filter(|program| runnable(program));
        let asked = join_all(found.map(|program| self.client(program))).await;
        let mut clients: Vec<ClientProgram> = asked.into_iter().flatten().collect();
        clients.sort_by_key(|client| client.version);
        clients
    }

    async fn client(&self, program: PathBuf) -> Option<ClientProgram> {
        let version = version(&self.said(&program, &["--version"]).await?)?;
        Some(ClientProgram { version, program })
    }

    /// The directories to search, without duplicates.
    async fn directories(&self) -> Vec<PathBuf> {
        let mut places = self.places();
        if self.system {
            places.extend(usual());
            places.extend(self.on_path().await);
        }
        let mut seen = Vec::new();
        for place in places {
            let place = place.canonicalize().unwrap_or(place);
            if !seen.contains(&place) {
                seen.push(place);
            }
        }
        seen
    }

    /// The installation in a directory of programs; none if `postgres` there prints no version.
    pub(crate) async fn engine(&self, directory: &Path) -> Option<Engine> {
        let postgres = directory.join("postgres");
        let version = version(&self.said(&postgres, &["--version"]).await?)?;
        let config = directory.join("pg_config");
        let printed = if runnable(&config) {
            self.said(&config, &["--sharedir", "--configure"]).await
        } else {
            None
        };
        let printed = printed.unwrap_or_default();
        let (share, options) = printed.split_once('\n').unwrap_or_default();
        let features = self.features(options, postgres).await;
        let (directory, share) = (directory.to_owned(), share.to_owned());
        let read = blocking(move || {
            Ok(Engine {
                provider: NAME,
                version,
                tls: features.tls,
                icu: features.icu,
                extensions: extensions(&directory, &share, version),
                tools: tools(&directory),
                directory,
            })
        });
        read.await.ok()
    }

    /// Reads features from the recorded options of the build. If no options were recorded, from
    /// the names of the libraries that the program is linked with.
    async fn features(&self, options: &str, postgres: PathBuf) -> Features {
        if let Some(features) = Features::of_build(options) {
            return features;
        }
        let stamp = Stamp::of(&postgres);
        if let Some((then, features)) = self.lock().linked.get(&postgres)
            && Some(*then) == stamp
        {
            return *features;
        }
        let program = postgres.clone();
        let Ok(features) = blocking(move || Features::linked(&program)).await else {
            return Features::default();
        };
        if let Some(stamp) = stamp {
            self.lock().linked.insert(postgres, (stamp, features));
        }
        features
    }

    /// Output of a program for these arguments, cached; none if it failed or hung.
    async fn said(&self, program: &Path, arguments: Arguments) -> Option<String> {
        let stamp = Stamp::of(program)?;
        let question = (program.to_owned(), arguments);
        let memory = self.lock().recall(&question, stamp);
        match memory {
            Memory::Said(text) => Some(text),
            Memory::Hung { rested } => {
                if rested {
                    self.ask_beside(question, stamp);
                }
                None
            }
            Memory::Nothing => {
                let answer = ask(program, arguments, self.run_as).await;
                self.lock().keep(question, stamp, answer)
            }
        }
    }

    /// Runs a program in the background. Later callers get the answer from the cache.
    fn ask_beside(&self, question: Question, stamp: Stamp) {
        let (known, run_as) = (Arc::clone(&self.known), self.run_as);
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        while asking.try_join_next().is_some() {}
        asking.spawn(async move {
            let answer = ask(&question.0, question.1, run_as).await;
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.keep(question, stamp, answer);
        });
    }

    fn places(&self) -> Vec<PathBuf> {
        let configured = self.configured.iter();
        configured
            .flat_map(|directory| [directory.clone(), directory.join("bin")])
            .collect()
    }

    /// The directory that the first `pg_config` on PATH prints.
    async fn on_path(&self) -> Option<PathBuf> {
        let path = env::var_os("PATH")?;
        let program = env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join("pg_config"))
            .find(|program| runnable(program))?;
        let printed = self.said(&program, &["--bindir"]).await?;
        Some(PathBuf::from(printed.trim()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn usual() -> Vec<PathBuf> {
    let mut places = Vec::new();
    for (parent, prefix) in USUAL {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let fitting = entries.filter(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.starts_with(prefix))
        });
        places.extend(fitting.map(|entry| entry.path().join("bin")));
    }
    places
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let facts = fs::metadata(file).ok()?;
        Some(Self {
            inode: facts.ino(),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }
}

/// Runs a program, at most for [`LIMIT`].
async fn ask(program: &Path, arguments: Arguments, run_as: RunAs) -> Answer {
    let mut asked = command(program, run_as);
    let done = command::run(asked.args(arguments), LIMIT, command::OUTPUT).await;
    match done {
        Ok(done) if done.status.success() => Answer::Said(done.output),
        Ok(done) => {
            tracing::debug!(program = %program.display(), errors = done.errors, "a program fails");
            Answer::Failed
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            tracing::warn!(program = %program.display(), "a program does not print its version");
            Answer::Hung
        }
        Err(error) => {
            tracing::debug!(program = %program.display(), %error, "a program cannot be run");
            Answer::Failed
        }
    }
}

/// Reads what `postgres --version` prints: `postgres (PostgreSQL) 15.18 (Debian ...)`.
pub(crate) fn version(text: &str) -> Option<Version> {
    let (_, rest) = text.split_once("(PostgreSQL) ")?;
    number(rest)
}

/// Reads the version at the beginning of a text: `15.18 (Debian ...)`.
pub(crate) fn number(text: &str) -> Option<Version> {
    let word = text.split_whitespace().next()?;
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit());
        text.get(..end.unwrap_or(text.len()))?.parse().ok()
    };
    let minor = word.split_once('.').and_then(|(_, minor)| digits(minor));
    Some(Version {
        major: digits(word).filter(|major| *major >= 10)?,
        // Betas have no minor version.
        minor: minor.unwrap_or(0),
    })
}

/// Optional features of a PostgreSQL build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Features {
    tls: bool,
    icu: bool,
}

impl Features {
    /// Reads the options of a build; none if they were not recorded.
    fn of_build(options: &str) -> Option<Self> {
        options.contains("--").then(|| Self {
            tls: options.contains("--with-openssl") || options.contains("--with-ssl"),
            icu: !options.contains("--without-icu")
                && (options.contains("--with-icu") || options.contains("ICU_")),
        })
    }

    /// Searches the program for names of the libraries that it is linked with.
    fn linked(postgres: &Path) -> Result<Self> {
        let program = fs::read(postgres).map_err(|error| failure::file(error, postgres))?;
        Ok(Self {
            tls: holds(&program, b"libssl") || holds(&program, b"SSL_CTX_new"),
            icu: holds(&program, b"libicu") || holds(&program, b"ucol_open"),
        })
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Names of the extensions: the control files in the installation's share directory.
fn extensions(directory: &Path, share: &str, version: Version) -> Vec<String> {
    let prefix = directory.parent().unwrap_or(directory);
    let major = version.major;
    let places = [
        PathBuf::from(share.trim()),
        prefix.join("share/postgresql"),
        prefix.join("share"),
        prefix.join(format!("share/postgresql@{major}")),
        PathBuf::from(format!("/usr/share/postgresql/{major}")),
    ];
    let found = places
        .iter()
        .filter(|place| place.is_absolute())
        .find_map(|place| fs::read_dir(place.join("extension")).ok());
    let names = found.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".control").map(str::to_owned)
    });
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

fn tools(directory: &Path) -> Vec<String> {
    let have = TOOLS.iter().filter(|tool| runnable(&directory.join(tool)));
    have.map(|tool| (*tool).to_owned()).collect()
}

fn runnable(program: &Path) -> bool {
    fs::metadata(program)
        .is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// The newest usable installation of each major version.
pub(crate) fn by_major(engines: &[Engine]) -> BTreeMap<u16, &Engine> {
    let mut newest = BTreeMap::new();
    for engine in engines.iter().filter(|engine| engine.usable()) {
        newest.entry(engine.version.major).or_insert(engine);
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        let read = |text: &str| version(text).map(|version| (version.major, version.minor));
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(read(debian), Some((15, 18)));
        assert_eq!(read("postgres (PostgreSQL) 18beta1\n"), Some((18, 0)));
        assert_eq!(read("postgres (PostgreSQL) 19devel"), Some((19, 0)));
        assert_eq!(read("postgres (PostgreSQL) 9.6.24"), None);
        assert_eq!(read("something else"), None);
    }

    #[test]
    fn reads_features_from_the_build_options() {
        let of = |options| Features::of_build(options);
        let both = of("'--with-openssl' '--with-icu'").unwrap();
        assert!(both.tls && both.icu);
        let none = of("'--prefix=/usr' '--without-icu'").unwrap();
        assert!(!none.tls && !none.icu);
        assert_eq!(of(""), None);
    }

    fn script(place: &Path, name: &str, text: &str) {
        let file = place.join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Retries until `wanted` holds. Executing a script fails while another process, forked
    /// meanwhile, has it open for writing.
    async fn found(
        discovery: &Discovery,
        place: &Path,
        wanted: impl Fn(&Engine) -> bool,
    ) -> Engine {
        for _ in 0..200 {
            match discovery.engine(place).await {
                Some(engine) if wanted(&engine) => return engine,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("it was not found");
    }

    #[tokio::test]
    async fn a_program_that_hung_rests_and_is_asked_again_beside_the_answer() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path();
        let discovery = Discovery::new(Vec::new(), false, RunAs::Ourselves);
        let hang = "echo asked >> asked; [ -e well ] || exec sleep 60";
        let says = "echo 'postgres (PostgreSQL) 17.2'";
        script(
            path,
            "postgres",
            &format!("cd {}; {hang}; {says}", path.display()),
        );
        let asked = || fs::read_to_string(path.join("asked")).unwrap_or_default();
        // The first runs may fail, if another process has the script open for writing.
        while asked().is_empty() {
            assert_eq!(discovery.engine(path).await, None);
        }
        let begin = Instant::now();
        assert_eq!(discovery.engine(path).await, None);
        assert!(begin.elapsed() < LIMIT / 2);
        assert_eq!(asked(), "asked\n");
        fs::write(path.join("well"), "").unwrap();
        for (_, since) in discovery.lock().hung.values_mut() {
            *since = since.checked_sub(REST).unwrap();
        }
        assert_eq!(discovery.engine(path).await, None);
        let engine = found(&discovery, path, |_| true).await;
        assert_eq!(engine.version.minor, 2);
        assert_eq!(asked(), "asked\nasked\n");
    }

    #[tokio::test]
    async fn a_program_that_failed_is_asked_again_and_one_that_answered_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path();
        let discovery = Discovery::new(Vec::new(), false, RunAs::Ourselves);
        // Each script fails until the file that it prints exists.
        let fails = |needs: &str| format!("cd {} && cat {needs} || exit 1", path.display());
        let asked = "echo asked >> asked";
        script(path, "postgres", &format!("{}; {asked}", fails("version")));
        script(path, "pg_config", &fails("config"));
        assert_eq!(discovery.engine(path).await, None);
        fs::write(path.join("version"), "postgres (PostgreSQL) 17.2\n").unwrap();
        let engine = found(&discovery, path, |_| true).await;
        assert_eq!((engine.version.major, engine.tls), (17, false));
        let share = path.join("share");
        let config = format!("{}\n'--with-openssl'\n", share.display());
        fs::write(path.join("config"), config).unwrap();
        found(&discovery, path, |engine| engine.tls).await;
        // Files beside the programs are not cached.
        assert!(!engine.usable() && engine.extensions.is_empty());
        fs::create_dir_all(share.join("extension")).unwrap();
        fs::write(share.join("extension/hstore.control"), "").unwrap();
        for tool in ["initdb", "pg_ctl"] {
            script(path, tool, "exit 0");
        }
        let engine = discovery.engine(path).await.unwrap();
        assert!(engine.usable(), "{engine:?}");
        assert_eq!(engine.extensions, ["hstore"]);
        let asked = fs::read_to_string(path.join("asked")).unwrap();
        assert_eq!(asked, "asked\n");
        // A new file in the place of the program is asked again.
        fs::write(path.join("version"), "postgres (PostgreSQL) 17.3\n").unwrap();
        fs::remove_file(path.join("postgres")).unwrap();
        script(path, "postgres", &fails("version"));
        found(&discovery, path, |engine| engine.version.minor == 3).await;
    }
}
