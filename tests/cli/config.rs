//! Settings: precedence, refusals, secrets, and the reference that lists them.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, Command, FromArgMatches};
use howdah::config::{
    self, ClientCertificates, ListenAddress, Loaded, Problem, ServeArguments, Source, Surroundings,
    settings::{SETTINGS, Shape},
};
use secrecy::ExposeSecret;
use tempfile::TempDir;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What a process would be started with.
#[derive(Default)]
struct Start {
    flags: Vec<String>,
    surroundings: Surroundings,
    directory: Option<TempDir>,
}

impl Start {
    fn new() -> Self {
        Self::default().variable("HOME", "/home/someone")
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        let variables = &mut self.surroundings.variables;
        variables.insert(name.into(), value.into());
        self
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).into()));
        self
    }

    fn file(mut self, text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("howdah.toml");
        fs::write(&path, text).unwrap();
        self.flags.push(format!("--config={}", path.display()));
        self.directory = Some(directory);
        self
    }

    fn load(&self) -> Result<Loaded, Vec<Problem>> {
        let command = ServeArguments::augment_args(Command::new("serve"));
        let words = std::iter::once("serve".to_owned()).chain(self.flags.clone());
        let matches = command.try_get_matches_from(words).unwrap();
        let arguments = ServeArguments::from_arg_matches(&matches).unwrap();
        config::load(&arguments, &self.surroundings)
    }

    fn refused(&self) -> Vec<String> {
        let problems = self.load().expect_err("must be refused");
        problems.iter().map(Problem::to_string).collect()
    }

    /// The one problem's text.
    fn refused_once(&self) -> String {
        let problems = self.refused();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems[0].clone()
    }
}

fn tcp<const PORT: u16>(text: &str) -> ListenAddress<PORT> {
    ListenAddress::Tcp(text.parse().unwrap())
}

#[test]
fn defaults_suit_a_laptop_and_root() {
    let config = Start::new().load().unwrap().config;
    assert_eq!(config.listen, tcp("127.0.0.1:7717"));
    assert_eq!(config.admin_listen, tcp("127.0.0.1:7718"));
    let state = PathBuf::from("/home/someone/.local/state/howdah");
    assert_eq!(config.data_dir, state);
    assert_eq!(config.local.root, state.join("local"));
    assert_eq!(config.operations.lease, Duration::from_secs(15));
    assert_eq!(config.server.max_message_bytes, 4 << 20);

    let mut root = Start::new();
    root.surroundings.root = true;
    let config = root.load().unwrap().config;
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/howdah"));
    assert_eq!(config.local.run_directory, PathBuf::from("/run/howdah"));

    let xdg = Start::new().variable("XDG_STATE_HOME", "/state");
    assert_eq!(
        xdg.load().unwrap().config.data_dir,
        PathBuf::from("/state/howdah")
    );
    let homeless = Start::default().refused_once();
    assert!(homeless.starts_with("data_dir: "), "{homeless}");
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "listen = \"127.0.0.1:1\"\n[operations]\nworkers = 3\nlease = \"20s\"\n";
    let start = Start::new()
        .file(file)
        .variable("HOWDAH_LISTEN", "127.0.0.1:2")
        .variable("HOWDAH_OPERATIONS_WORKERS", "5")
        .flags(&["--listen", "127.0.0.1:3"]);
    let Loaded { config, sources } = start.load().unwrap();
    assert_eq!(config.listen, tcp("127.0.0.1:3"));
    assert_eq!(config.operations.workers, 5);
    assert_eq!(config.operations.lease, Duration::from_secs(20));
    assert_eq!(config.operations.scan_interval, Duration::from_secs(5));
    assert_eq!(sources["listen"], Source::Flag("--listen".into()));
    let variable = "HOWDAH_OPERATIONS_WORKERS".to_owned();
    assert_eq!(sources["operations.workers"], Source::Environment(variable));
    assert!(matches!(sources["operations.lease"], Source::File(_)));
    assert!(!sources.contains_key("operations.scan_interval"));
}

#[test]
fn every_shape_can_be_given_as_text() {
    let config = Start::new()
        .variable("HOWDAH_INSECURE", "true")
        .variable("HOWDAH_LOCAL_LISTEN_ADDRESSES", "127.0.0.1, ::1")
        .variable("HOWDAH_LOCAL_PORTS", "21000-21010")
        .variable("HOWDAH_LOG_FORMAT", "json")
        .variable("HOWDAH_SERVER_MAX_CONNECTIONS", "")
        .flags(&[
            "--listen=unix:/tmp/howdah.sock",
            "--local-purge-delay=1h30m",
        ])
        .load()
        .unwrap()
        .config;
    assert!(config.insecure);
    assert_eq!(config.local.listen_addresses.len(), 2);
    assert_eq!(config.local.ports.last(), 21_010);
    assert_eq!(config.log.format, config::LogFormat::Json);
    assert_eq!(
        config.listen,
        ListenAddress::Unix("/tmp/howdah.sock".into())
    );
    assert_eq!(config.local.purge_delay, Duration::from_secs(5400));
    // An empty variable is none.
    assert_eq!(config.server.max_connections, 1024);
}

#[test]
fn all_errors_come_at_once_with_their_sources() {
    let problems = Start::new()
        .file("lisen = \"x\"\n[tls]\ncertificat = \"y\"\n[operations]\nworkers = \"many\"\n")
        .variable("HOWDAH_LOCAL_PORTS", "30000-40000")
        .flags(&["--operations-lease", "15"])
        .refused();
    let expected = [
        ("lisen: there is no such setting", "howdah.toml"),
        ("tls.certificat: there is no such setting", "howdah.toml"),
        ("local.ports: ", "environment variable HOWDAH_LOCAL_PORTS"),
        ("operations.lease: ", "flag --operations-lease"),
        ("operations.workers: `many`", "howdah.toml"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (begin, source) in expected {
        let found = problems.iter().find(|line| line.starts_with(begin));
        let line = found.unwrap_or_else(|| panic!("{begin} in {problems:#?}"));
        assert!(line.contains(source), "{line}");
    }
}

#[test]
fn each_rule_refuses() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("LISTEN", "nowhere")], "listen"),
        (&[("LISTEN", "unix:")], "listen"),
        (&[("ADMIN_LISTEN", "unix:/tmp/s")], "admin_listen"),
        (&[("TLS_CERTIFICATE", "c")], "tls.key"),
        (&[("TLS_KEY", "k")], "tls.certificate"),
        (
            &[
                ("TLS_CERTIFICATE", "c"),
                ("TLS_KEY", "k"),
                ("TLS_CLIENT_CA", "a"),
            ],
            "tls.client_ca",
        ),
        (
            &[("TLS_CLIENT_CERTIFICATES", "maybe")],
            "tls.client_certificates",
        ),
        (&[("LOG_FILTER", "howdah=loud")], "log.filter"),
        (&[("OTLP_ENDPOINT", "collector")], "otlp.endpoint"),
        (
            &[("SERVER_MAX_MESSAGE_BYTES", "12")],
            "server.max_message_bytes",
        ),
        (&[("SERVER_MAX_IN_FLIGHT", "0")], "server.max_in_flight"),
        (&[("SERVER_MAX_WAITS", "1000001")], "server.max_waits"),
        (
            &[("SERVER_MAX_STREAMS_PER_CALLER", "257")],
            "server.max_streams_per_caller",
        ),
        (
            &[("SERVER_MAX_CONNECTIONS_PER_ADDRESS", "1025")],
            "server.max_connections_per_address",
        ),
        (
            &[("SERVER_MAX_UNFINISHED_BYTES", "67108863")],
            "server.max_unfinished_bytes",
        ),
        (&[("SERVER_PROXIES", "10.0.0.0/8,proxy")], "server.proxies"),
        (
            &[("DATABASE_MAX_CONNECTIONS", "1")],
            "database.max_connections",
        ),
        (&[("OPERATIONS_LEASE", "10ms")], "operations.lease"),
        (&[("OPERATIONS_RETENTION", "1h")], "operations.retention"),
        (&[("LOCAL_RUN_AS", "root")], "local.run_as"),
        (&[("LOCAL_PORTS", "80-90")], "local.ports"),
        (&[("LOCAL_PORTS", "29000-28000")], "local.ports"),
        (&[("LOCAL_LISTEN_ADDRESSES", ",")], "local.listen_addresses"),
        (
            &[("LOCAL_LISTEN_ADDRESSES", "127.0.0.1, 0.0.0.0")],
            "local.listen_addresses",
        ),
        (&[("LOCAL_TLS_CERTIFICATE", "/a")], "local.tls_key"),
        (&[("DATABASE_URL", "postgres://h/d")], "secret_key"),
        (
            &[("DATABASE_URL", "mysql://h/d"), ("SECRET_KEY", KEY)],
            "database_url",
        ),
        (&[("SECRET_KEY", "c2hvcnQ=")], "secret_key"),
        (&[("SECRET_KEY_FILE", "/nowhere/key")], "secret_key_file"),
        (
            &[("SECRET_KEY", KEY), ("SECRET_KEY_FILE", "f")],
            "secret_key",
        ),
        (&[("INSECURE", "perhaps")], "insecure"),
        (&[("AUTH_ANONYMOUS_ROLE", "root")], "auth.anonymous_role"),
        (&[("AUDIT_RETENTION", "-1s")], "audit.retention"),
    ];
    for (variables, key) in cases {
        let start = variables.iter().fold(Start::new(), |start, (name, value)| {
            start.variable(&format!("HOWDAH_{name}"), value)
        });
        let problem = start.refused_once();
        assert!(problem.starts_with(&format!("{key}: ")), "{problem}");
    }
}

/// Bindings of the file, and nothing else of it.
fn bindings(tables: &[&str]) -> Start {
    let tables = tables
        .iter()
        .map(|table| format!("[[auth.bindings]]\n{table}\n"));
    Start::new().file(&tables.collect::<String>())
}

#[test]
fn bindings_are_read_from_the_file() {
    use howdah::domain::{
        access::{Binding, Role, Scope, Subject},
        principal::Principal,
    };

    let start = bindings(&[
        "principal = 'cert:CN=ada,O=ops'\nrole = 'operator'\nscope = 'projects/a'",
        "principal = 'uid:7'\nrole = 'connector'\nscope = '*'",
    ]);
    let config = start.load().unwrap().config;
    let identity = "CN=ada,O=ops".to_owned();
    let expected = [
        Binding {
            subject: Subject::Principal(Principal::Certificate { identity }),
            role: Role::Operator,
            scope: Scope::parse("projects/a").unwrap(),
        },
        Binding {
            subject: Subject::Principal(Principal::UnixUser { uid: 7 }),
            role: Role::Connector,
            scope: Scope::Everything,
        },
    ];
    assert_eq!(config.bindings(), expected);
    assert_eq!(config.anonymous_role(), Some(Role::Admin));
    let closed = Start::new().variable("HOWDAH_AUTH_ANONYMOUS_ROLE", "none");
    assert_eq!(closed.load().unwrap().config.anonymous_role(), None);
}

#[test]
fn a_binding_that_says_nothing_is_refused() {
    let good = "principal = 'uid:7'\nrole = 'viewer'\nscope = '*'";
    for (binding, why) in [
        (
            "principal = 'ada'\nrole = 'viewer'\nscope = '*'",
            "`ada` is no principal",
        ),
        (
            "principal = 'uid:7'\nrole = 'viewer'\nscope = 'orders'",
            "`orders` is no scope",
        ),
        (
            "principal = 'uid:7'\nrole = 'none'\nscope = '*'",
            "`none` is no role",
        ),
        (
            "principal = 'uid:7'\nrole = 'root'\nscope = '*'",
            "unknown variant `root`",
        ),
        (
            "principal = 'uid:7'\nrole = 'viewer'",
            "missing field `scope`",
        ),
    ] {
        let problem = bindings(&[good, binding]).refused_once();
        assert!(problem.starts_with("auth.bindings: "), "{problem}");
        assert!(problem.contains(why), "{problem}");
    }
    let anonymous = "principal = 'anonymous'\nrole = 'viewer'\nscope = '*'";
    bindings(&[anonymous]).load().unwrap();
    let text = Start::new()
        .file("[auth]\nbindings = 'uid:7'")
        .refused_once();
    assert!(
        text.starts_with("auth.bindings: must be a list of tables"),
        "{text}"
    );
}

/// The message names what is wrong, and the value that would do.
#[test]
fn a_refused_limit_says_what_is_needed() {
    let refused = |variable: &str, value: &str| {
        let start = Start::new().variable(&format!("HOWDAH_SERVER_{variable}"), value);
        start.refused_once()
    };
    let problem = refused("PROXIES", "10.0.0.0/8,10.0.0.1");
    let named = "server.proxies: `10.0.0.1` is not a network such as 10.0.0.1/32";
    assert!(problem.starts_with(named), "{problem}");
    let problem = refused("MAX_MESSAGE_BYTES", "8388608");
    let needed = "server.max_unfinished_bytes: must be at least 16 times \
                  server.max_message_bytes, 8388608: set it to 134217728 or more, not 67108864";
    assert!(problem.starts_with(needed), "{problem}");
    let reference = include_str!("../../docs/configuration.md");
    assert!(reference.contains("134217728 for 8388608"));
}

/// Whatever is added to times, handed to timers and to PostgreSQL has its bounds, and the
/// reference names them.
#[test]
fn every_duration_has_bounds() {
    let reference = include_str!("../../docs/configuration.md");
    let is_duration = |text: &str| config::duration::parse(text).is_ok();
    let mut count = 0;
    for setting in SETTINGS.iter() {
        let default = setting.default.as_ref().and_then(|value| value.as_str());
        if !default.is_some_and(is_duration) {
            continue;
        }
        count += 1;
        let flag = format!("--{}", setting.flag.as_deref().unwrap());
        let with = |value: &str| Start::new().flags(&[&flag, value]);
        for value in ["99999999d", "213503982334d"] {
            let problems = with(value).refused();
            let begin = format!("{}: must be ", setting.key);
            let problem = problems.iter().find(|line| line.starts_with(&begin));
            let problem = problem.unwrap_or_else(|| panic!("{begin} in {problems:?}"));
            let (bounds, rest) = problem[begin.len()..].split_once(", not ").unwrap();
            assert!(rest.starts_with(&format!("{value} (from flag {flag})")));
            let row = format!("| `{}` | ", setting.key);
            let row = reference.lines().find(|line| line.starts_with(&row));
            let row = row.unwrap().to_lowercase();
            assert!(row.ends_with(&format!(" {bounds}. |")), "{row}: {bounds}");
            let (least, most) = bounds.split_once(" to ").unwrap();
            for edge in [least, most] {
                let edge = with(edge).load();
                let other = |problem: &Problem| problem.key == "operations.retention";
                assert!(edge.is_ok() || edge.unwrap_err().iter().all(other));
            }
        }
    }
    assert_eq!(count, 20);
}

#[test]
fn a_wide_address_needs_authentication() {
    for (key, variable) in [
        ("listen", "HOWDAH_LISTEN"),
        ("admin_listen", "HOWDAH_ADMIN_LISTEN"),
    ] {
        for address in [
            "0.0.0.0:0",
            "[::]:1",
            "192.0.2.1:7717",
            "[::ffff:192.0.2.1]:1",
        ] {
            let start = Start::new().variable(variable, address);
            let problem = start.refused_once();
            assert!(problem.starts_with(&format!("{key}: ")), "{problem}");
            start.flags(&["--insecure"]).load().unwrap();
        }
        for address in ["127.3.2.1:0", "[::1]:1", "localhost:80"] {
            Start::new().variable(variable, address).load().unwrap();
        }
    }
    let socket = Start::new().variable("HOWDAH_LISTEN", "unix:/tmp/s");
    assert!(!socket.load().unwrap().config.lets_anybody_in());
    let tls = |mode: &str| {
        Start::new()
            .variable("HOWDAH_LISTEN", "0.0.0.0:7717")
            .file(&format!(
                "[tls]\ncertificate = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\n\
                 client_certificates = \"{mode}\"\n"
            ))
    };
    let config = tls("required").load().unwrap().config;
    assert_eq!(config.tls.client_certificates, ClientCertificates::Required);
    assert!(!config.lets_anybody_in());
    let optional = tls("optional");
    assert!(optional.refused_once().starts_with("listen: "));
    let optional = optional.variable("HOWDAH_LISTEN", "127.0.0.1:0");
    assert!(optional.load().unwrap().config.lets_anybody_in());
}

#[test]
fn a_password_is_refused_on_the_command_line_and_never_shown() {
    let with_password = [
        "postgres://me:s3cr3t@h/d",
        "postgres://me:s3/cr3t@h/d",
        "postgres://me@h/d?password=s3cr3t",
        "postgres://me@h/d?sslpassword=s3cr3t",
    ];
    for url in with_password {
        let start = Start::new().variable("HOWDAH_SECRET_KEY", KEY);
        let problem = start.flags(&["--database-url", url]).refused_once();
        assert!(problem.contains("--database-url"), "{problem}");
        assert!(!problem.contains("cr3t"), "{problem}");

        let loaded = Start::new()
            .variable("HOWDAH_SECRET_KEY", KEY)
            .variable("HOWDAH_DATABASE_URL", url)
            .load()
            .unwrap();
        let shown = format!(
            "{loaded:?}{}",
            serde_json::to_string(&loaded.config).unwrap()
        );
        assert!(!shown.contains("cr3t") && !shown.contains(KEY), "{shown}");
        let kept = loaded.config.database_url.unwrap();
        assert_eq!(kept.expose_secret(), url);
    }
    Start::new()
        .variable("HOWDAH_SECRET_KEY", KEY)
        .flags(&["--database-url", "postgres://me@h:5432/d"])
        .load()
        .unwrap();
}

#[test]
fn a_broken_file_does_not_show_its_secrets() {
    for text in [
        "\n\ndatabase_url = \"postgres://me:s3cr3t@h/d\n",
        "secret_key = [\"s3cr3t\"]",
    ] {
        let problem = Start::new().file(text).refused_once();
        assert!(!problem.contains("s3cr3t"), "{problem}");
        assert!(
            problem.contains("line 3") || problem.starts_with("secret_key: "),
            "{problem}"
        );
    }
    let problem = Start::new()
        .flags(&["--config", "/nowhere.toml"])
        .refused_once();
    assert!(problem.starts_with("config: cannot be read"), "{problem}");
}

#[test]
fn keys_come_from_value_or_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    fs::write(&path, format!("{KEY}\n")).unwrap();
    let config = Start::new()
        .variable("HOWDAH_SECRET_KEY_FILE", path.to_str().unwrap())
        .variable("HOWDAH_SECRET_KEY_PREVIOUS", &format!("{KEY}, {KEY}"))
        .load()
        .unwrap()
        .config;
    let bytes: Vec<u8> = (0..32).collect();
    assert_eq!(config.secret_keys.current.unwrap().expose_secret(), bytes);
    assert_eq!(config.secret_keys.previous.len(), 2);
    for key in config.secret_keys.previous {
        assert_eq!(key.expose_secret(), bytes);
    }
}

#[test]
fn secrets_have_no_flag_but_the_database_url() {
    let secrets = SETTINGS.iter().filter(|setting| setting.secret);
    let flags: Vec<(&str, bool)> = secrets
        .map(|setting| (setting.key.as_str(), setting.flag.is_some()))
        .collect();
    assert_eq!(
        flags,
        [
            ("database_url", true),
            ("secret_key", false),
            ("secret_key_previous", false)
        ]
    );
}

#[test]
fn the_reference_lists_every_setting_and_no_other() {
    let reference = include_str!("../../docs/configuration.md");
    let mut rows: Vec<Vec<&str>> = reference
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            line.split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect()
        })
        .collect();
    for setting in SETTINGS.iter() {
        let place = rows.iter().position(|row| row[1] == setting.key);
        let row = rows.remove(place.unwrap_or_else(|| panic!("{} is missing", setting.key)));
        let flag = setting
            .flag
            .as_ref()
            .map_or("none".into(), |flag| format!("--{flag}"));
        assert_eq!(row[2], flag, "flag of {}", setting.key);
        let variable = setting.variable.as_deref().unwrap_or("none");
        assert_eq!(row[3], variable, "variable of {}", setting.key);
        if let Some(default) = &setting.default
            && setting.shape != Shape::Boolean
        {
            let text = config::settings::Setting::show(default);
            assert_eq!(row[4], text, "default of {}", setting.key);
        }
        assert!(row[5].len() > 20, "{} is not explained", setting.key);
    }
    assert!(rows.is_empty(), "no settings: {rows:?}");
}
