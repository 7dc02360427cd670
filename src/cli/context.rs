//! `howdah context`: named servers to call.
//!
//! They are stored in `howdah/contexts.toml`, in the configuration directory of the XDG Base
//! Directory Specification. The file has paths of TLS files, but no secrets.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf, absolute},
    process,
};

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    arguments::{Global, Output},
    exit::{Exit, Failure},
    output::{Sheet, data, yes},
};
use crate::client::{self, Options};

/// Most bytes that are read of the file.
const MOST: u64 = 256 * 1024;

/// Most bytes of a context's name.
const LONGEST: usize = 63;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the contexts
    List,
    /// Call this context's server from now on, where nothing else is said
    Use {
        /// Name of the context
        name: String,
    },
    /// Add a context: the --endpoint, --project, --ca, --cert and --key given with it
    Add {
        /// Name of the context, such as prod
        name: String,
    },
    /// Remove a context
    Remove {
        /// Name of the context
        name: String,
    },
}

/// A server, and how to connect to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    pub(super) endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<PathBuf>,
}

/// Contents of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    /// The context that is used if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

pub(super) fn run(command: Command, global: Global) -> Result<Exit, Failure> {
    let path = path().ok_or_else(homeless)?;
    // Another command may change the file at the same time.
    let _lock = match command {
        Command::List => None,
        _ => Some(lock(&path)?),
    };
    let mut contexts = Contexts::read(&path)?;
    let before = contexts.clone();
    match command {
        Command::List => {
            writeln!(io::stdout(), "{}", contexts.listed(global.output)?)?;
        }
        Command::Use { name } => {
            contexts.get(&name)?;
            contexts.current = Some(name);
        }
        Command::Add { name } => contexts.add(name, global)?,
        Command::Remove { name } => {
            contexts.get(&name)?;
            contexts.contexts.remove(&name);
            contexts.current.take_if(|current| *current == name);
        }
    }
    if contexts != before {
        contexts.write(&path)?;
    }
    Ok(Exit::Success)
}

/// The context to use: the named one, otherwise the current one. None if there is neither.
pub(super) fn chosen(name: Option<&str>) -> Result<Option<Context>, Failure> {
    let Some(path) = path() else {
        return match name {
            Some(_) => Err(homeless()),
            None => Ok(None),
        };
    };
    let contexts = Contexts::read(&path)?;
    match name.or(contexts.current.as_deref()) {
        Some(name) => contexts.get(name).cloned().map(Some),
        None => Ok(None),
    }
}

/// Path of the file; none without a home directory.
fn path() -> Option<PathBuf> {
    let directory = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        // The specification says that relative paths are ignored.
        path.filter(|path| path.is_absolute())
    };
    let home = || directory("HOME").map(|home| home.join(".config"));
    let config = directory("XDG_CONFIG_HOME").or_else(home)?;
    Some(config.join("howdah").join("contexts.toml"))
}

/// Locks the file for a change. The lock is another file beside it, which is never removed.
fn lock(path: &Path) -> Result<File, Failure> {
    let open = || -> io::Result<File> {
        make_directory(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path.with_extension("lock"))?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|error| unwritable(path, &error))
}

fn make_directory(path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot write {}: {error}", path.display());
    Failure::new(Exit::Failed, message)
}

fn homeless() -> Failure {
    let message = "there is no place for contexts: set HOME or XDG_CONFIG_HOME";
    Failure::new(Exit::Usage, message)
}

impl Contexts {
    fn read(path: &Path) -> Result<Self, Failure> {
        let damaged = |why: &dyn std::fmt::Display| {
            let message = format!("{} cannot be read: {why}", path.display());
            Failure::new(Exit::Usage, message).note("correct the file, or remove it")
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(damaged(&error)),
        };
        let mut text = String::new();
        let read = file.take(MOST + 1).read_to_string(&mut text);
        read.map_err(|error| damaged(&error))?;
        if text.len() as u64 > MOST {
            return Err(damaged(&format!("it has more than {MOST} bytes")));
        }
        let contexts: Self = toml::from_str(&text).map_err(|error| damaged(&error.message()))?;
        Ok(contexts)
    }

    /// Replaces the file by a rename, so that a crash leaves the old or the new contents.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| unwritable(path, &error);
        let text = toml::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        // Follows a symbolic link, which may lead into a repository of configuration files.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let unfinished = target.with_extension(format!("new.{}", process::id()));
        let write = || -> io::Result<()> {
            make_directory(path)?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, &target)
        };
        write().map_err(failed)
    }

    fn get(&self, name: &str) -> Result<&Context, Failure> {
        let found = self.contexts.get(name);
        found.ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no context `{name}`"))
                .note("`howdah context list` lists all of them")
        })
    }

    fn add(&mut self, name: String, global: Global) -> Result<(), Failure> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > LONGEST || !name.chars().all(is_name) {
            let message = format!(
                "`{name}` is no name of a context: letters, digits, `-`, `_` and `.`, at most \
                 {LONGEST}"
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let context = Context::of(global)?;
        match self.contexts.get(&name) {
            Some(known) if *known != context => {
                let message = format!("there is another context `{name}`");
                Err(Failure::new(Exit::Conflict, message)
                    .note(format!("`howdah context remove {name}` removes it")))
            }
            _ => {
                self.contexts.insert(name, context);
                Ok(())
            }
        }
    }

    fn listed(&self, output: Output) -> Result<String, Failure> {
        let is_current = |name: &String| self.current.as_ref() == Some(name);
        if output.is_data() {
            let all = self.contexts.iter().map(|(name, context)| {
                json!({
                    "name": name,
                    "current": is_current(name),
                    "endpoint": context.endpoint,
                    "project": context.project,
                })
            });
            return data(&all.collect(), output);
        }
        if output == Output::Name {
            let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            return Ok(names.join("\n"));
        }
        let rows = self.contexts.iter().map(|(name, context)| {
            [
                name.clone(),
                yes(is_current(name)),
                context.endpoint.clone(),
                context.project.clone().unwrap_or_default(),
            ]
        });
        Ok(Sheet::rows(["NAME", "CURRENT", "ENDPOINT", "PROJECT"], rows).to_string())
    }
}

impl Context {
    /// The context of `add`. Paths of files are made absolute, because later commands run
    /// elsewhere.
    fn of(global: Global) -> Result<Self, Failure> {
        let endpoint = global.endpoint.filter(|text| !text.is_empty());
        let endpoint = endpoint.ok_or_else(|| {
            Failure::new(Exit::Usage, "a context needs an endpoint: give --endpoint")
        })?;
        let whole = |path: Option<PathBuf>| {
            let path = path.filter(|path| !path.as_os_str().is_empty());
            path.map(|path| absolute(&path).unwrap_or(path))
        };
        let context = Self {
            endpoint,
            project: global.project.filter(|text| !text.is_empty()),
            ca: whole(global.ca),
            cert: whole(global.cert),
            key: whole(global.key),
        };
        client::check(&context.endpoint, &context.options())?;
        Ok(context)
    }

    /// The options to connect to its server.
    pub(super) fn options(&self) -> Options {
        Options {
            ca: self.ca.clone(),
            certificate: self.cert.clone(),
            key: self.key.clone(),
            ..Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("howdah/contexts.toml");
        assert_eq!(Contexts::read(&path).unwrap(), Contexts::default());
        let context = Context {
            endpoint: "127.0.0.1:7717".into(),
            ca: Some("/ca.pem".into()),
            ..Context::default()
        };
        let written = Contexts {
            current: Some("prod".into()),
            contexts: [("prod".to_owned(), context)].into(),
        };
        written.write(&path).unwrap();
        assert_eq!(Contexts::read(&path).unwrap(), written);
        for damaged in ["current = 1", "nonsense", "[contexts.a]\nendpoint = 1\n"] {
            fs::write(&path, damaged).unwrap();
            assert!(Contexts::read(&path).is_err(), "{damaged}");
        }
        fs::write(&path, "#".repeat(300_000)).unwrap();
        assert!(Contexts::read(&path).is_err());
    }
}
