//! Settings that are secret.

use std::{borrow::Cow, fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Serializer;

use super::{Config, Problem};

/// Bytes of a secret key (AES-256).
const KEY_BYTES: usize = 32;

/// A key of 32 bytes.
#[derive(Clone, Debug)]
pub struct SecretKey(SecretSlice<u8>);

impl SecretKey {
    /// Reads a key from base64.
    ///
    /// # Errors
    /// A sentence that does not show the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = STANDARD
            .decode(text.trim())
            .map_err(|_| "is no base64".to_owned())?;
        if bytes.len() != KEY_BYTES {
            return Err(format!(
                "must be {KEY_BYTES} bytes in base64, as `openssl rand -base64 32` writes"
            ));
        }
        Ok(Self(bytes.into()))
    }
}

impl ExposeSecret<[u8]> for SecretKey {
    fn expose_secret(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

/// The keys that stored secrets are sealed with.
#[derive(Clone, Debug, Default)]
pub struct SecretKeys {
    /// Seals and opens. None: the key that is kept in the data directory.
    pub current: Option<SecretKey>,
    /// Open only, what was sealed before the key changed.
    pub previous: Vec<SecretKey>,
}

/// Schema of a secret setting: no value is ever given back.
pub(super) struct Text;

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

/// Writes a mark instead of a secret.
pub(super) fn redacted<S: Serializer>(
    _: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("[redacted]")
}

/// Reads the keys from their settings or files.
pub(super) fn read_keys(config: &Config, problems: &mut Vec<Problem>) -> SecretKeys {
    let current = read(
        "secret_key",
        config.secret_key.as_ref(),
        config.secret_key_file.as_deref(),
        SecretKey::parse,
    );
    let previous = read(
        "secret_key_previous",
        config.secret_key_previous.as_ref(),
        config.secret_key_previous_file.as_deref(),
        parse_list,
    );
    let mut found = |problem| problems.push(problem);
    SecretKeys {
        current: current.map_err(&mut found).ok().flatten(),
        previous: previous
            .map_err(&mut found)
            .ok()
            .flatten()
            .unwrap_or_default(),
    }
}

/// Reads keys with white space or commas between them.
fn parse_list(text: &str) -> Result<Vec<SecretKey>, String> {
    let parts = text.split(|c: char| c.is_whitespace() || c == ',');
    let keys: Vec<SecretKey> = parts
        .filter(|part| !part.is_empty())
        .map(SecretKey::parse)
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err("holds no key".to_owned());
    }
    Ok(keys)
}

/// Reads a setting from its value or its file; none when neither is given.
fn read<T>(
    key: &str,
    value: Option<&SecretString>,
    file: Option<&Path>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    match (value, file) {
        (Some(_), Some(_)) => Err(Problem::new(
            key,
            format!("cannot be set together with {key}_file"),
        )),
        (Some(value), None) => parse(value.expose_secret())
            .map(Some)
            .map_err(|message| Problem::new(key, message)),
        (None, Some(path)) => {
            let problem = |message| Problem::new(format!("{key}_file"), message);
            let text = fs::read_to_string(path)
                .map(SecretString::from)
                .map_err(|error| problem(format!("cannot read {}: {error}", path.display())))?;
            parse(text.expose_secret())
                .map(Some)
                .map_err(|message| problem(format!("the content of {} {message}", path.display())))
        }
        (None, None) => Ok(None),
    }
}

/// Checks the form of the metadata database's URL, and that a key comes with it.
pub(super) fn check_database_url(config: &Config, problems: &mut Vec<Problem>) {
    let Some(url) = &config.database_url else {
        return;
    };
    let url = url.expose_secret();
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        problems.push(Problem::new("database_url", "must begin with postgres://"));
    }
    if config.secret_key.is_none() && config.secret_key_file.is_none() {
        problems.push(Problem::new(
            "secret_key",
            "needed with database_url, since replicas must share it: set it or \
             secret_key_file; `openssl rand -base64 32` makes one",
        ));
    }
}

/// Whether a connection URL holds a password, in its authority or its query.
pub(super) fn url_has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, tail) = match rest.find(['/', '?', '#']) {
        Some(end) => rest.split_at(end),
        None => (rest, ""),
    };
    let in_authority = authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':'));
    // A password with an unescaped slash moves the `@` into the tail.
    in_authority || tail.contains('@') || tail.to_ascii_lowercase().contains("password=")
}
