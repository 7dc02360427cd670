//! Chooses the server to call: from the option or the variable, otherwise from a context,
//! otherwise the process that serves from this user's data directory, otherwise the default
//! endpoint.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{
    arguments::{DEFAULT_ENDPOINT, DEFAULT_PROJECT, Global},
    context,
    exit::{Exit, Failure},
};
use crate::{client::Options, config::Surroundings};

/// File with the endpoint, in the data directory of a process that serves.
const FILE: &str = "endpoint";

/// Most bytes that are read of that file.
const MOST: u64 = 1024;

/// The server to call, the options to connect to it, and the project of short names.
pub(super) struct Called {
    pub(super) endpoint: String,
    pub(super) project: String,
    pub(super) options: Options,
    /// Source of the endpoint; none if it was typed.
    pub(super) found_in: Option<String>,
}

/// Decides between the options, the variables, the contexts and this machine.
///
/// A given endpoint ignores the current context, so that TLS files of one server are not used
/// with another. For the same reason a context that was typed ignores the variables.
pub(super) fn called(mut global: Global) -> Result<Called, Failure> {
    if is_typed(global.context.as_deref(), "HOWDAH_CONTEXT") {
        if is_typed(global.endpoint.as_deref(), "HOWDAH_ENDPOINT") {
            let message = "--context and --endpoint name a server each: leave one of them out";
            return Err(Failure::new(Exit::Usage, message));
        }
        global.endpoint = None;
        let typed = |path: &PathBuf, variable: &str| is_typed(path.to_str(), variable);
        global
            .project
            .take_if(|it| !is_typed(Some(it), "HOWDAH_PROJECT"));
        global.ca.take_if(|it| !typed(it, "HOWDAH_CA"));
        global.cert.take_if(|it| !typed(it, "HOWDAH_CERT"));
        global.key.take_if(|it| !typed(it, "HOWDAH_KEY"));
    }
    // An empty variable counts as unset.
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let file = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    let given = text(global.endpoint);
    let name = text(global.context);
    let context = match &given {
        Some(_) => None,
        None => context::chosen(name.as_deref())?,
    };
    let around = Surroundings::of_process();
    let local = || served_here(&around);
    let (endpoint, found_in) = match (given, &context) {
        (Some(given), _) => (given, None),
        (None, Some(context)) => (context.endpoint.clone(), Some("the context".to_owned())),
        (None, None) => match local() {
            Some((endpoint, file)) => (endpoint, Some(file.display().to_string())),
            None => (DEFAULT_ENDPOINT.to_owned(), None),
        },
    };
    let context = context.unwrap_or_default();
    let options = context.options();
    let project = text(global.project).or(context.project);
    Ok(Called {
        endpoint,
        project: project.unwrap_or_else(|| DEFAULT_PROJECT.to_owned()),
        options: Options {
            ca: file(global.ca).or(options.ca),
            certificate: file(global.cert).or(options.certificate),
            key: file(global.key).or(options.key),
            ..options
        },
        found_in,
    })
}

/// Whether an option was typed. Otherwise it comes from its variable.
fn is_typed(given: Option<&str>, variable: &str) -> bool {
    given.is_some_and(|given| {
        !given.is_empty() && std::env::var_os(variable).is_none_or(|value| value != given)
    })
}

/// The endpoint of the process that serves from this user's data directory, and the file with
/// it.
fn served_here(around: &Surroundings) -> Option<(String, PathBuf)> {
    let path = around.data_dir()?.join(FILE);
    Some((endpoint(&path)?, path))
}

fn endpoint(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MOST).read_to_string(&mut text).ok()?;
    // A complete file ends with a line feed.
    let endpoint = text.strip_suffix('\n')?;
    let is_one = !endpoint.is_empty() && !endpoint.contains(char::is_whitespace);
    is_one.then(|| endpoint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_endpoint_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert_eq!(endpoint(&path), None);
        for (text, expected) in [
            ("127.0.0.1:7717\n", Some("127.0.0.1:7717")),
            ("unix:/run/howdah/api\n", Some("unix:/run/howdah/api")),
            ("127.0.0.1:77", None),
            ("\n", None),
            ("a b\n", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(endpoint(&path).as_deref(), expected, "{text:?}");
        }
    }
}
