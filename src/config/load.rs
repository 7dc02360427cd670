//! Brings flags, environment, file and defaults together.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use toml::{Table, Value};

use super::{
    Config, Problem, ServeArguments, secret,
    settings::{SETTINGS, Setting, Shape, find},
};
use crate::domain::clock::{Clock, SystemClock};

/// Where a value came from, strongest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A flag, with its hyphens.
    Flag(String),
    /// An environment variable.
    Environment(String),
    /// The configuration file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(formatter, "flag {flag}"),
            Self::Environment(variable) => write!(formatter, "environment variable {variable}"),
            Self::File(path) => write!(formatter, "file {}", path.display()),
        }
    }
}

/// What the process finds around it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// Whether the process is root.
    pub root: bool,
    /// Its user id.
    pub user: u32,
    /// The present time.
    pub now: DateTime<Utc>,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let user = rustix::process::geteuid();
        Self {
            variables: env::vars_os().map(|(k, v)| (text(k), text(v))).collect(),
            root: user.is_root(),
            user: user.as_raw(),
            now: SystemClock.now(),
        }
    }
}

/// The settings and where each that was given came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective settings.
    pub config: Config,
    /// Source by key; settings that are missing have their default.
    pub sources: BTreeMap<&'static str, Source>,
}

/// Loads, settles and checks the settings.
///
/// # Errors
/// Everything that is wrong, in the order of the settings.
pub fn load(
    arguments: &ServeArguments,
    surroundings: &Surroundings,
) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut given = BTreeMap::new();
    if let Some(path) = &arguments.config {
        read_file(path, &mut given, &mut problems);
    }
    read_environment(surroundings, &mut given);
    read_flags(arguments, &mut given, &mut problems);

    let mut table = Table::new();
    let mut sources = BTreeMap::new();
    for setting in SETTINGS.iter() {
        let Some((source, value)) = given.remove(setting.key.as_str()) else {
            continue;
        };
        match accept(setting, value) {
            Ok(value) => {
                insert(&mut table, &setting.key, value);
                sources.insert(setting.key.as_str(), source);
            }
            Err(message) => problems.push(Problem::from(source, &setting.key, message)),
        }
    }
    let mut config = Config::deserialize(table)
        .map_err(|error| vec![Problem::new("config", error.message())])?;
    // What was refused has its default here; rules between settings would then
    // complain about values that nobody gave.
    if problems.is_empty() {
        config.settle(surroundings, &mut problems);
        config.check(&mut problems);
    }
    if problems.is_empty() {
        return Ok(Loaded { config, sources });
    }
    for problem in &mut problems {
        if problem.source.is_none() {
            problem.source = sources.get(problem.key.as_str()).cloned();
        }
    }
    Err(problems)
}

/// Values by key, each with its source.
type Given = BTreeMap<&'static str, (Source, Value)>;

fn read_file(path: &Path, given: &mut Given, problems: &mut Vec<Problem>) {
    let source = Source::File(path.to_owned());
    let mut fail = |message: String| {
        problems.push(Problem::from(source.clone(), "config", message));
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return fail(format!("cannot be read: {error}")),
    };
    match text.parse::<Table>() {
        Ok(table) => flatten(table, "", &source, given, problems),
        // The error's own text quotes the line, which may hold a secret.
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            fail(format!("line {line}: {}", error.message()));
        }
    }
}

fn flatten(
    table: Table,
    prefix: &str,
    source: &Source,
    given: &mut Given,
    problems: &mut Vec<Problem>,
) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        let section = format!("{key}.");
        match (find(&key), value) {
            (Some(setting), value) => {
                given.insert(setting.key.as_str(), (source.clone(), value));
            }
            (None, Value::Table(inner))
                if SETTINGS
                    .iter()
                    .any(|setting| setting.key.starts_with(&section)) =>
            {
                flatten(inner, &section, source, given, problems);
            }
            _ => problems.push(Problem::from(
                source.clone(),
                key,
                "there is no such setting",
            )),
        }
    }
}

fn read_environment(surroundings: &Surroundings, given: &mut Given) {
    for setting in SETTINGS.iter() {
        // An empty variable counts as none: that is how Compose and others unset.
        let Some(variable) = &setting.variable else {
            continue;
        };
        let text = surroundings.variables.get(variable);
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            let source = Source::Environment(variable.clone());
            given.insert(&setting.key, (source, Value::String(text.clone())));
        }
    }
}

fn read_flags(arguments: &ServeArguments, given: &mut Given, problems: &mut Vec<Problem>) {
    for (key, text) in &arguments.values {
        let Some(flag) = find(key).and_then(|setting| setting.flag.as_deref()) else {
            continue;
        };
        let source = Source::Flag(format!("--{flag}"));
        if *key == "database_url" && secret::url_has_password(text) {
            let message = "a password on the command line can be read by everybody on this \
                           machine: use HOWDAH_DATABASE_URL or the configuration file";
            problems.push(Problem::from(source, *key, message));
            continue;
        }
        given.insert(key, (source, Value::String(text.clone())));
    }
}

/// The value in the setting's own shape, if a configuration with it alone can be read.
fn accept(setting: &Setting, value: Value) -> Result<Value, String> {
    let value = match value {
        Value::String(text) => shaped(setting.shape, text)?,
        other => other,
    };
    let mut alone = Table::new();
    insert(&mut alone, &setting.key, value.clone());
    match Config::deserialize(alone) {
        Ok(_) => Ok(value),
        // The message may quote the value.
        Err(_) if setting.secret => Err("must be a string".into()),
        Err(error) => Err(error.message().trim().to_owned()),
    }
}

fn shaped(shape: Shape, text: String) -> Result<Value, String> {
    let text = match shape {
        Shape::Text => text,
        _ => text.trim().to_owned(),
    };
    match shape {
        Shape::Text => Ok(Value::String(text)),
        Shape::Tables => Err("must be a list of tables".into()),
        Shape::List => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(Value::from).collect()))
        }
        Shape::Boolean => match text.as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Boolean(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Boolean(false)),
            _ => Err(format!("`{text}` is neither true nor false")),
        },
        Shape::Integer => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| format!("`{text}` is no whole number")),
    }
}

/// Puts `value` at a key of one or two parts.
fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let section = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                insert(section, rest, value);
            }
        }
    }
}
