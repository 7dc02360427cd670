//! The parameters of an installation, with their types and ranges, for checks before a start.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{
    TEMPLATE, configure,
    control::DATA,
    directory::{Directory, blocking},
    initialize::{self, Plan},
    lock::Lock,
    standalone, template,
    user::RunAs,
    value,
};
use crate::domain::{
    Error, Result,
    engine::Engine,
    random::{Random, SystemSource},
};

/// Most bytes of the list of parameters.
const MOST: usize = 4 * 1024 * 1024;

/// Returns one value on one line, which is easy to find in the output of a standalone backend.
const QUERY: &str = "select jsonb_agg(jsonb_build_object('name', name, 'unit', unit, \
     'kind', vartype, 'least', min_val, 'most', max_val, 'choices', enumvals, \
     'context', context)) as settings from pg_settings;\n";

/// A parameter, as `pg_settings` describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Parameter {
    /// Its name.
    pub(crate) name: String,
    /// Unit of its numbers, such as `8kB` or `ms`.
    pub(crate) unit: Option<String>,
    /// `bool`, `enum`, `integer`, `real` or `string`.
    pub(crate) kind: String,
    /// Smallest number, in its unit.
    pub(crate) least: Option<String>,
    /// Largest number, in its unit.
    pub(crate) most: Option<String>,
    /// Allowed values of an `enum`.
    pub(crate) choices: Option<Vec<String>>,
    /// When it can be set; `internal` means never.
    pub(crate) context: String,
}

/// The parameters of one installation, by name in lower case.
#[derive(Debug)]
pub(crate) struct Parameters(HashMap<String, Parameter>);

impl Parameters {
    fn parse(json: &[u8]) -> Option<Self> {
        let settings: Vec<Parameter> = serde_json::from_slice(json).ok()?;
        let named = settings
            .into_iter()
            .map(|setting| (setting.name.to_ascii_lowercase(), setting));
        Some(Self(named.collect())).filter(|parameters| !parameters.0.is_empty())
    }

    /// Refuses a value that the server would not start with.
    ///
    /// # Errors
    /// PARAMETER_INVALID.
    pub(crate) fn check(&self, name: &str, given: &str) -> Result<()> {
        let Some(setting) = self.0.get(&name.to_ascii_lowercase()) else {
            // Parameters of extensions are known only after the extension was loaded.
            return if name.contains('.') {
                Ok(())
            } else {
                Err(configure::invalid(name, "does not exist in that version"))
            };
        };
        if setting.context == "internal" {
            return Err(configure::invalid(name, "cannot be set"));
        }
        value::check(setting, given).map_err(|why| configure::invalid(name, &why))
    }
}

/// Cache of the parameters of installations, by the file that stores them.
#[derive(Debug, Default)]
pub(crate) struct KnownParameters(Mutex<HashMap<PathBuf, Arc<Parameters>>>);

impl KnownParameters {
    /// The file that stores the parameters of an installation.
    pub(crate) fn file(root: &Path, engine: &Engine) -> PathBuf {
        let name = format!("{}-{}.json", engine.version, template::mark(engine));
        root.join("parameters").join(name)
    }

    /// The parameters stored in a file; none if they were not read yet.
    pub(crate) fn known(&self, file: &Path) -> Result<Option<Arc<Parameters>>> {
        if let Some(known) = self.lock().get(file) {
            return Ok(Some(Arc::clone(known)));
        }
        let (directory, name) = parts(file)?;
        let Some(bytes) = directory.read(name)? else {
            return Ok(None);
        };
        Ok(Parameters::parse(&bytes).map(|parameters| self.keep(file, parameters)))
    }

    /// Reads the parameters with a copy of the installation's template, and stores them in the
    /// file.
    pub(crate) async fn read(
        &self,
        engine: &Engine,
        template: &Path,
        file: PathBuf,
        run_as: RunAs,
        lock: Lock,
    ) -> Result<Arc<Parameters>> {
        if let Some(known) = self.known(&file)? {
            return Ok(known);
        }
        let json = ask(engine, template, &file, run_as, lock).await?;
        let parameters = Parameters::parse(json.as_bytes());
        let parameters = parameters.ok_or_else(|| Error::internal("no settings were listed"))?;
        let writing = file.clone();
        blocking(move || {
            let (directory, name) = parts(&writing)?;
            directory.replace(name, json.as_bytes(), 0o600, run_as, || ())
        })
        .await?;
        Ok(self.keep(&file, parameters))
    }

    fn keep(&self, file: &Path, parameters: Parameters) -> Arc<Parameters> {
        let parameters = Arc::new(parameters);
        self.lock().insert(file.to_owned(), Arc::clone(&parameters));
        parameters
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Arc<Parameters>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parts(file: &Path) -> Result<(Directory, &str)> {
    let parent = file.parent().unwrap_or(file);
    let name = file.file_name().and_then(|name| name.to_str());
    Ok((Directory::open(parent)?, name.unwrap_or_default()))
}

/// Reads the parameters as JSON, from a standalone backend on a temporary data directory.
async fn ask(
    engine: &Engine,
    template: &Path,
    file: &Path,
    run_as: RunAs,
    lock: Lock,
) -> Result<String> {
    // Must not be a prefix of the stored file's name: entries with the prefix are removed.
    let name = format!("reading-{}", template::name(engine));
    let plan = Plan {
        programs: engine.directory.clone(),
        parent: file.parent().unwrap_or(file).to_owned(),
        unfinished: format!("{name}.{}", SystemSource::default().uuid()?.as_simple()),
        leftovers: format!("{name}."),
        name,
        run_as,
        durable: false,
        points: &TEMPLATE,
        lock,
    };
    let preparing = plan.clone();
    blocking(move || preparing.prepare(None)).await?;
    template::copy(&plan, template.to_owned()).await?;
    let data = plan.path().join(DATA);
    let done = standalone::run(&plan, data, SecretString::from(QUERY), MOST).await?;
    blocking(move || initialize::sweep(&Directory::open(&plan.parent)?, &plan.leftovers)).await?;
    answer(&done.output)
        .map(str::to_owned)
        .ok_or_else(|| Error::internal("a standalone backend did not answer"))
}

/// Finds the value in what a standalone backend prints for a row with one column:
/// `<tab> 1: settings = "value"<tab>(typeid = ...)`.
fn answer(output: &str) -> Option<&str> {
    let (_, rest) = output.split_once("1: settings = \"")?;
    let (value, _) = rest.split_once("\"\t(typeid")?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_standalone_backend_prints() {
        let printed = "backend> \t 1: settings\t(typeid = 25, len = -1)\n\t----\n\t 1: \
                       settings = \"[{\"name\": \"port\"}]\"\t(typeid = 25, len = -1)\n";
        assert_eq!(answer(printed), Some("[{\"name\": \"port\"}]"));
        assert_eq!(answer("backend> "), None);
    }

    #[test]
    fn unknown_and_internal_settings_are_refused() {
        let json = r#"[{"name": "TimeZone", "unit": null, "kind": "string", "least": null,
            "most": null, "choices": null, "context": "user"},
            {"name": "block_size", "unit": null, "kind": "integer", "least": "8192",
            "most": "8192", "choices": null, "context": "internal"}]"#;
        let parameters = Parameters::parse(json.as_bytes()).unwrap();
        parameters.check("timezone", "UTC").unwrap();
        parameters.check("ext.anything", "x").unwrap();
        assert!(parameters.check("anything", "x").is_err());
        assert!(parameters.check("block_size", "8192").is_err());
        assert!(Parameters::parse(b"[]").is_none());
    }
}
