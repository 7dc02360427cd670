//! Which server is called: the flag or the variable, else a context, else the server of this
//! machine's data directory, else the default.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{
    arguments::{DEFAULT_ENDPOINT, DEFAULT_PROJECT, Global},
    context,
    exit::Failure,
};
use crate::{client::Options, config::Surroundings};

/// File of a process that serves, in its data directory.
const FILE: &str = "endpoint";

/// Most bytes of an endpoint in that file.
const MOST: u64 = 1024;

/// A server, how it is connected to, and the project of short names.
pub(super) struct Called {
    pub(super) endpoint: String,
    pub(super) project: String,
    pub(super) options: Options,
    /// Where the endpoint was found, if nobody typed it.
    pub(super) found_in: Option<String>,
}

/// What the command's options, its variables, the contexts and this machine say.
///
/// An endpoint that is given leaves the contexts out, so that the TLS files of one server are
/// not used with another.
pub(super) fn called(global: Global) -> Result<Called, Failure> {
    // An empty variable is as good as none.
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

/// The endpoint of the process that serves from this user's data directory, and the file that
/// says it.
fn served_here(around: &Surroundings) -> Option<(String, PathBuf)> {
    let path = around.data_dir()?.join(FILE);
    Some((endpoint(&path)?, path))
}

fn endpoint(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MOST).read_to_string(&mut text).ok()?;
    // It ends with a line feed when it is whole.
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
