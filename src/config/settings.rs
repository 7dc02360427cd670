//! The list of settings, read off the schema of [`Config`](super::Config).

use std::sync::LazyLock;

use serde_json::{Map, Value};

/// A setting: one leaf of the configuration.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Key in the file, with its section: `tls.certificate`.
    pub key: String,
    /// Environment variable: `HOWDAH_TLS_CERTIFICATE`. None for tables.
    pub variable: Option<String>,
    /// Flag without its hyphens: `tls-certificate`. None for tables, and for a secret, which
    /// anybody on the machine could read off the command line.
    pub flag: Option<String>,
    /// Title of its section in the help.
    pub heading: String,
    /// What it does.
    pub description: String,
    /// Default; none where there is none, or where it depends on the machine.
    pub default: Option<Value>,
    /// Values that it can have, where they are few.
    pub choices: Vec<String>,
    /// How its value is written.
    pub shape: Shape,
    /// Whether its value is never shown.
    pub secret: bool,
}

/// How a setting's value is written in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// A string.
    Text,
    /// A list of strings; with commas between them as flag and variable.
    List,
    /// A list of tables; only in the file.
    Tables,
}

/// Every setting: first those outside sections, each group by the alphabet.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut found = Vec::new();
    collect(super::schema().as_value(), "", &mut found);
    found.sort_by_cached_key(|setting| (setting.key.contains('.'), setting.key.clone()));
    found
});

/// The setting with that key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn collect(schema: &Value, prefix: &str, found: &mut Vec<Setting>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    for (name, property) in properties {
        let key = match prefix {
            "" => name.clone(),
            section => format!("{section}.{name}"),
        };
        if property.get("properties").is_some() {
            collect(property, &key, found);
        } else if let Some(property) = property.as_object() {
            found.push(Setting::of(key, property));
        }
    }
}

impl Setting {
    fn of(key: String, property: &Map<String, Value>) -> Self {
        let secret = property.get("writeOnly") == Some(&Value::Bool(true));
        let shape = shape(property);
        let is_text = shape != Shape::Tables;
        let text = |name: &str| property.get(name).and_then(Value::as_str);
        Self {
            variable: is_text.then(|| format!("HOWDAH_{}", key.replace('.', "_").to_uppercase())),
            // The URL of the metadata database is wanted as a flag too, and refused
            // there when it holds a password.
            flag: (is_text && (!secret || key == "database_url"))
                .then(|| key.replace(['.', '_'], "-")),
            heading: match key.split_once('.') {
                Some((section, _)) => format!("Settings of {section}"),
                None => "Settings".to_owned(),
            },
            description: text("description").unwrap_or_default().replace('\n', " "),
            default: property
                .get("default")
                .filter(|value| !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty()))
                .cloned(),
            choices: choices(property),
            shape,
            secret,
            key,
        }
    }

    /// Writes a value as a flag or an environment variable takes it.
    #[must_use]
    pub fn show(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(Self::show).collect();
                items.join(",")
            }
            other => other.to_string(),
        }
    }
}

fn shape(property: &Map<String, Value>) -> Shape {
    let is = |name: &str| match property.get("type") {
        Some(Value::String(found)) => found == name,
        Some(Value::Array(found)) => found.iter().any(|found| found == name),
        _ => false,
    };
    if is("boolean") {
        Shape::Boolean
    } else if is("integer") {
        Shape::Integer
    } else if property
        .get("items")
        .is_some_and(|items| items.get("properties").is_some())
    {
        Shape::Tables
    } else if is("array") {
        Shape::List
    } else {
        Shape::Text
    }
}

fn choices(property: &Map<String, Value>) -> Vec<String> {
    let variants = property.get("oneOf").and_then(Value::as_array);
    variants
        .into_iter()
        .flatten()
        .filter_map(|variant| variant.get("const")?.as_str())
        .map(str::to_owned)
        .collect()
}
