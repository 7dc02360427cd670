//! Writes the configuration file that Howdah owns, and decides which parameters users may set.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::File,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use super::{ADMIN, control::DATA, directory::Directory, log::DIRECTORY, user::RunAs};
use crate::domain::{Error, Reason, Result, version::Version};

/// Name of the file, in the data directory.
pub(crate) const FILE: &str = "howdah.conf";

/// Lines that are appended to `postgresql.conf`. PostgreSQL uses the last value of a parameter,
/// so the included file wins.
pub(crate) const INCLUDE: &str = "\n# The settings that Howdah keeps, and those of the \
                                  instance.\ninclude 'howdah.conf'\n";

/// Parameters that users may not set. Howdah relies on their values, or a user who sets them
/// could run programs or read files as the operating system user of all servers.
const RESERVED: &[&str] = &[
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "basebackup_to_shell.command",
    "config_file",
    "data_directory",
    "db_user_namespace",
    "dynamic_library_path",
    "extension_control_path",
    "external_pid_file",
    "fsync",
    "full_page_writes",
    "hba_file",
    "ident_file",
    "include",
    "include_dir",
    "include_if_exists",
    "jit_provider",
    "krb_server_keyfile",
    "lc_messages",
    "listen_addresses",
    "log_destination",
    "log_directory",
    "log_file_mode",
    "log_filename",
    "log_line_prefix",
    "log_rotation_age",
    "log_rotation_size",
    "log_truncate_on_rotation",
    "logging_collector",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "oauth_validator_libraries",
    "password_encryption",
    "port",
    "promote_trigger_file",
    "recovery_end_command",
    "restore_command",
    "ssl",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_crl_dir",
    "ssl_crl_file",
    "ssl_dh_params_file",
    "ssl_key_file",
    "ssl_passphrase_command",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
    "wal_level",
];

/// Parameters of procedural languages whose value is code. That code runs at the start of each
/// session or of the server, as the operating system user of all servers.
const CODE: &[&str] = &["plperl.", "pltcl.", "plpython.", "plv8."];

/// Endings of parameter names whose value is a path, a command or a library. All such parameters
/// of PostgreSQL 14 to 18 are listed as reserved or harmless; parameters that a later version
/// adds are refused until somebody has checked them.
const DANGEROUS: &[&str] = &[
    "_path",
    "_command",
    "_library",
    "_libraries",
    "_file",
    "_dir",
    "_directory",
];

/// Parameters with such an ending that users may set.
const HARMLESS: &[&str] = &["search_path"];

/// Lists of libraries that the server loads and executes.
const PRELOADED: &[&str] = &[
    "local_preload_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
];

/// Logging: seven files, one for each weekday, each truncated when its weekday comes again.
const LOG: &[(&str, &str)] = &[
    ("logging_collector", "on"),
    ("log_destination", "stderr"),
    ("log_filename", "postgresql-%a.log"),
    ("log_rotation_age", "1d"),
    ("log_rotation_size", "0"),
    ("log_truncate_on_rotation", "on"),
    ("log_file_mode", "0600"),
    ("log_line_prefix", "%m [%p] %q%u@%d "),
    ("password_encryption", "scram-sha-256"),
    ("unix_socket_permissions", "0700"),
];

/// Defaults that a user's parameters override. `authentication_timeout` is shorter than
/// PostgreSQL's 60 s because DROP DATABASE waits for sessions that are still authenticating.
const DEFAULTS: &[(&str, &str)] = &[("authentication_timeout", "20s")];

/// Replication limits that are high enough for Howdah and its users.
const REPLICATION: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("max_replication_slots", "16"),
    ("max_wal_senders", "16"),
];

/// First major version with `max_slot_wal_keep_size`, the parameter and its value. It bounds the
/// WAL that a forgotten slot holds back.
const SLOT_BOUND: (u16, &str, &str) = (13, "max_slot_wal_keep_size", "8GB");

/// Parameters of ephemeral servers. A crash may lose their data.
const CARELESS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
];

/// Files in the data directory: certificate, private key and host-based authentication rules.
pub(crate) const CERTIFICATE: &str = "howdah.crt";
pub(crate) const KEY: &str = "howdah.key";
pub(crate) const ACCESS: &str = "howdah_hba.conf";

const TLS: &[(&str, &str)] = &[
    ("ssl", "on"),
    ("ssl_cert_file", CERTIFICATE),
    ("ssl_key_file", KEY),
];

/// Rules for clients on this machine, as `initdb` writes them.
const NEAR: &str = "\
# Written by Howdah before each start: changes are lost.
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
local replication all scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
host replication all ::1/128 scram-sha-256
";

/// Whether the server listens on an address other than `127.0.0.1` and `::1`.
pub(crate) fn is_wide(listen_addresses: &[IpAddr]) -> bool {
    let near = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    listen_addresses.iter().any(|at| !near.contains(at))
}

/// Rules of a server that other machines can reach. `howdah_admin`, a superuser, is refused from
/// other machines; everyone else must use TLS if the server has a certificate.
pub(crate) fn access(tls: bool) -> String {
    let kind = if tls { "hostssl" } else { "host" };
    format!("{NEAR}host all {ADMIN} all reject\n{kind} all all all scram-sha-256\n")
}

/// Parameters of the embedded metadata server: small, and reachable through its socket only.
const EMBEDDED: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("shared_buffers", "32MB"),
    ("max_connections", "50"),
    ("max_wal_senders", "2"),
    ("max_replication_slots", "2"),
    ("max_wal_size", "256MB"),
];

/// The values that a server's configuration file is made from.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    /// Version of PostgreSQL that the server runs.
    pub(crate) version: Version,
    /// Directory that holds the server's data and logs.
    pub(crate) home: &'a Path,
    /// Directory of the server's Unix socket.
    pub(crate) socket_directory: &'a Path,
    /// TCP port; also part of the socket's name.
    pub(crate) port: u16,
    /// Whether a crash may lose the server's data.
    pub(crate) ephemeral: bool,
    /// Addresses that the server listens on.
    pub(crate) listen_addresses: &'a [IpAddr],
    /// Whether the server offers TLS.
    pub(crate) tls: bool,
    /// Parameters that the user has set.
    pub(crate) parameters: &'a BTreeMap<String, String>,
}

impl Contents<'_> {
    /// The configuration file of a user's server.
    ///
    /// # Errors
    /// PARAMETER_INVALID, PARAMETER_RESERVED.
    pub(crate) fn server(&self) -> Result<String> {
        let mut text = self.head();
        let addresses: Vec<String> = self
            .listen_addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        line(&mut text, "listen_addresses", &addresses.join(","));
        if self.tls {
            lines(&mut text, TLS);
        }
        if is_wide(self.listen_addresses) {
            // The server would resolve a relative path against the working directory of its start.
            let rules = self.home.join(DATA).join(ACCESS);
            line(&mut text, "hba_file", &rules.to_string_lossy());
        }
        lines(&mut text, REPLICATION);
        if self.version.major >= SLOT_BOUND.0 {
            line(&mut text, SLOT_BOUND.1, SLOT_BOUND.2);
        }
        if self.ephemeral {
            lines(&mut text, CARELESS);
        }
        lines(&mut text, DEFAULTS);
        for (name, value) in self.parameters {
            check_name(name)?;
            check_text(name, value)?;
            line(&mut text, name, value);
        }
        Ok(text)
    }

    /// The configuration file of the embedded metadata server.
    pub(crate) fn embedded(&self) -> String {
        let mut text = self.head();
        lines(&mut text, EMBEDDED);
        text
    }

    fn head(&self) -> String {
        let mut text = String::from("# Written by Howdah before each start: changes are lost.\n");
        let log = self.home.join(DIRECTORY);
        line(&mut text, "port", &self.port.to_string());
        line(
            &mut text,
            "unix_socket_directories",
            &self.socket_directory.to_string_lossy(),
        );
        line(&mut text, "log_directory", &log.to_string_lossy());
        lines(&mut text, LOG);
        text
    }
}

/// Most bytes that are read of a certificate with its chain, or of a key.
const PEM_MOST: u64 = 256 * 1024;

/// Reads a file that the configuration names, at most [`PEM_MOST`] bytes.
///
/// # Errors
/// CONFIG_INVALID when it cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut contents = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PEM_MOST).read_to_end(&mut contents));
    read.map_err(|error| {
        let message = format!("{} cannot be read", path.display());
        Error::new(Reason::ConfigInvalid, message).with_source(error)
    })?;
    Ok(contents)
}

/// Writes a file into the data directory, unless it has these contents already.
pub(crate) fn write(
    data: &Directory,
    name: &str,
    contents: &[u8],
    owner: RunAs,
    before_rename: impl FnOnce(),
) -> Result<()> {
    if data.read(name)?.as_deref() == Some(contents) {
        return Ok(());
    }
    data.replace(name, contents, 0o600, owner, before_rename)
}

/// Refuses a malformed parameter name and a reserved parameter.
///
/// # Errors
/// PARAMETER_INVALID, PARAMETER_RESERVED.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let part = |part: &str| {
        let first = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        first
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    if name.len() > 127 || !name.split('.').all(part) {
        let shown: String = name.chars().take(63).collect();
        return Err(invalid(&shown, "is no name of a setting"));
    }
    if is_kept(&name.to_ascii_lowercase()) {
        let message = format!("the setting `{name}` is kept by Howdah");
        return Err(Error::new(Reason::ParameterReserved, message).with_field(field(name)));
    }
    Ok(())
}

/// Whether a parameter, given in lower case, is reserved for Howdah.
fn is_kept(name: &str) -> bool {
    let ends = |parts: &[&str]| parts.iter().any(|part| name.ends_with(part));
    let known = HARMLESS.contains(&name) || PRELOADED.contains(&name);
    RESERVED.contains(&name)
        || CODE.iter().any(|language| name.starts_with(language))
        || (ends(DANGEROUS) && !known)
}

/// Refuses a value that is too long, has control characters, or names a library by its path.
///
/// # Errors
/// PARAMETER_INVALID.
pub(crate) fn check_text(name: &str, value: &str) -> Result<()> {
    if value.len() > 4096 {
        return Err(invalid(name, "has a value of more than 4096 bytes"));
    }
    if value.contains(|c: char| c.is_control() && c != '\t' && c != '\n') {
        return Err(invalid(name, "has a value with control characters"));
    }
    let listed = PRELOADED.contains(&name.to_ascii_lowercase().as_str());
    if listed && !value.split(',').all(is_bare) {
        return Err(invalid(
            name,
            "takes names of installed libraries, without a path",
        ));
    }
    Ok(())
}

/// Whether a library is named without a path, so that it must come from the installation.
fn is_bare(library: &str) -> bool {
    let mut characters = library.trim().trim_matches('"').chars();
    characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// The error for an invalid parameter; `why` continues the sentence after the name.
pub(crate) fn invalid(name: &str, why: &str) -> Error {
    let message = format!("the setting `{name}` {why}");
    Error::new(Reason::ParameterInvalid, message).with_field(field(name))
}

fn field(name: &str) -> String {
    format!("instance.parameters.{name}")
}

fn lines(text: &mut String, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        line(text, name, value);
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{name} = '{}'", escaped(value));
}

/// Escapes a value for single quotes in `postgresql.conf` (PostgreSQL's `guc-file.l`).
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\'', "''")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(parameters: &BTreeMap<String, String>) -> Contents<'_> {
        Contents {
            version: Version {
                major: 15,
                minor: 1,
            },
            home: Path::new("/srv/it's"),
            socket_directory: Path::new("/run/x"),
            port: 7000,
            ephemeral: false,
            listen_addresses: &[],
            tls: false,
            parameters,
        }
    }

    /// Parameters of any version that could run a program, or read a file, as the servers' user.
    #[test]
    fn paths_commands_libraries_and_code_are_kept() {
        for kept in [
            "Extension_Control_Path",
            "dynamic_library_path",
            "oauth_validator_libraries",
            "archive_command",
            "archive_library",
            "basebackup_to_shell.command",
            "plperl.on_init",
            "plperl.on_plperlu_init",
            "pltcl.start_proc",
            "ssl_ca_file",
            "ssl_crl_dir",
            "krb_server_keyfile",
            "stats_temp_directory",
            "some_extension.config_file",
            "some_later_path",
        ] {
            let refused = check_name(kept).unwrap_err();
            assert_eq!(refused.reason(), Reason::ParameterReserved, "{kept}");
        }
        for allowed in [
            "work_mem",
            "search_path",
            "shared_preload_libraries",
            "log_temp_files",
            "temp_tablespaces",
            "pg_stat_statements.max",
            "max_files_per_process",
        ] {
            check_name(allowed).unwrap();
        }
    }

    #[test]
    fn values_stay_between_their_quotes() {
        let parameters = BTreeMap::from([
            ("work_mem".to_owned(), "4MB".to_owned()),
            ("app.x".to_owned(), "a'b\\\nfsync = off".to_owned()),
        ]);
        let text = contents(&parameters).server().unwrap();
        assert!(text.contains("\nwork_mem = '4MB'\n"));
        assert!(text.contains("\napp.x = 'a''b\\\\\\nfsync = off'\n"));
        assert!(text.contains("\nlog_directory = '/srv/it''s/log'\n"));
        assert!(text.contains("\nmax_slot_wal_keep_size = '8GB'\n"));
        assert!(!text.contains("\nfsync"));
    }

    /// PostgreSQL uses the last value of a parameter.
    #[test]
    fn a_users_value_comes_after_the_default() {
        let none = BTreeMap::new();
        let text = contents(&none).server().unwrap();
        assert_eq!(text.matches("authentication_timeout").count(), 1);
        let default = "\nauthentication_timeout = '20s'\n";
        assert!(text.contains(default));
        let users = BTreeMap::from([("authentication_timeout".to_owned(), "3s".to_owned())]);
        let text = contents(&users).server().unwrap();
        let last = text.rfind("authentication_timeout");
        assert_eq!(
            text.rfind("authentication_timeout = '3s'\n"),
            last,
            "{text}"
        );
        assert!(last.is_some());
    }

    #[test]
    fn what_howdah_keeps_is_refused_in_any_case() {
        for name in ["wal_level", "Port", "FSYNC", "archive_command"] {
            let error = check_name(name).unwrap_err();
            assert_eq!(error.reason(), Reason::ParameterReserved, "{name}");
        }
        for name in ["", "a b", "a=1", "a\nport", ".", "a.", "1a", "a'", "é"] {
            let error = check_name(name).unwrap_err();
            assert_eq!(error.reason(), Reason::ParameterInvalid, "{name}");
        }
        check_name("auto_explain.log_min_duration").unwrap();
        let parameters = BTreeMap::from([("port".to_owned(), "1".to_owned())]);
        assert!(contents(&parameters).server().is_err());
        assert!(check_text("a", "\0").is_err());
    }

    #[test]
    fn what_howdah_writes_is_reserved() {
        let kept = LOG.iter().chain(REPLICATION).chain(TLS);
        let kept = kept.map(|(name, _)| *name).chain([
            SLOT_BOUND.1,
            "port",
            "listen_addresses",
            "unix_socket_directories",
            "log_directory",
        ]);
        for name in kept {
            assert!(RESERVED.contains(&name), "{name}");
        }
        assert!(RESERVED.is_sorted());
    }
}
