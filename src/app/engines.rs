//! PostgreSQL installations.

use crate::domain::{
    self, Error, Reason, Result,
    engine::{Engine, OLDEST_MAJOR},
    provider::Providers,
    version::Wanted,
};

/// The PostgreSQL installations that the default provider offers. Cheap to clone.
#[derive(Clone)]
pub struct Engines {
    providers: Providers,
}

impl Engines {
    pub(super) fn new(providers: Providers) -> Self {
        Self { providers }
    }

    /// All installations, newest first.
    ///
    /// # Errors
    /// Those of the provider when it cannot search for them.
    pub async fn list(&self) -> Result<Vec<Engine>> {
        self.providers.default()?.engines().await
    }

    /// The newest usable installation of the version that `wanted` names. If there is none, the
    /// error says why: too old, incomplete, or not installed.
    pub(super) async fn newest(&self, wanted: Wanted) -> Result<Engine> {
        let engines = self.list().await?;
        if let Some(engine) = domain::engine::newest(&engines, wanted) {
            return Ok(engine.clone());
        }
        let unusable = engines.iter().find(|engine| wanted.matches(engine.version));
        if let Some(engine) = unusable
            && engine.version.major < OLDEST_MAJOR
        {
            let message = format!(
                "instances of PostgreSQL {} cannot be made: {OLDEST_MAJOR} is the oldest",
                engine.version
            );
            return Err(Error::new(Reason::Unimplemented, message).with_field("instance.version"));
        }
        if let Some(engine) = unusable {
            let message = format!(
                "PostgreSQL {} in {} lacks {}",
                engine.version,
                engine.directory.display(),
                engine.missing_tools().join(", "),
            );
            return Err(Error::new(Reason::ToolMissing, message));
        }
        if engines.is_empty() {
            let message = "no PostgreSQL is installed; `howdah doctor` says how to get one";
            return Err(Error::new(Reason::PostgresqlNotFound, message));
        }
        let have: Vec<String> = engines
            .iter()
            .map(|engine| engine.version.to_string())
            .collect();
        let message = format!(
            "PostgreSQL {wanted} is not installed; there is {}",
            have.join(", ")
        );
        Err(Error::new(Reason::VersionNotInstalled, message).with_field("instance.version"))
    }
}
