//! The settings as command-line flags.

use std::{collections::BTreeMap, ops::Deref, path::PathBuf};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueHint, value_parser};

use super::settings::{SETTINGS, Setting, Shape};

/// Id of the argument that names the file.
const CONFIG: &str = "config";

/// Heading of the settings that are in no section.
const MAIN: &str = "Settings";

/// What was given on the command line: any setting, and the file.
#[derive(Clone, Debug, Default)]
pub struct ServeArguments {
    /// Configuration file in TOML, of `--config` or `HOWDAH_CONFIG`.
    pub config: Option<PathBuf>,
    /// Values by the settings' keys. Private, since one may be a database URL.
    pub(super) values: BTreeMap<&'static str, String>,
}

impl Args for ServeArguments {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(CONFIG)
            .long("config")
            .value_name("FILE")
            .env("HOWDAH_CONFIG")
            .value_parser(value_parser!(PathBuf))
            .value_hint(ValueHint::FilePath)
            .help("Configuration file in TOML");
        let flags = SETTINGS.iter().filter_map(flag);
        // Those of a section are documented by `--help` and docs/configuration.md.
        let flags = flags.map(|flag| {
            let of_a_section = flag.get_help_heading() != Some(MAIN);
            flag.hide_short_help(of_a_section)
        });
        command.arg(file).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The same of a command that works with the settings of `serve` and needs few of them. It
/// takes all, and its help shows those that lead to the data.
#[derive(Clone, Debug, Default)]
pub struct BriefArguments(ServeArguments);

/// The settings that it shows.
const SHOWN: [&str; 4] = ["data_dir", "database_url", "local.root", "local.run_as"];

/// Where all of them are described.
const OTHERS: &str = "The other settings of `howdah serve` are taken here too: see `howdah serve \
                      --help` and docs/configuration.md.";

impl Deref for BriefArguments {
    type Target = ServeArguments;

    fn deref(&self) -> &ServeArguments {
        &self.0
    }
}

impl Args for BriefArguments {
    fn augment_args(command: Command) -> Command {
        let keys = || SETTINGS.iter().map(|setting| setting.key.as_str());
        let hidden = |id: &str| keys().any(|key| key == id) && !SHOWN.contains(&id);
        ServeArguments::augment_args(command)
            .mut_args(|argument| {
                let hide = hidden(argument.get_id().as_str());
                argument.hide(hide).hide_short_help(false)
            })
            .after_help(OTHERS)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for BriefArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        ServeArguments::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl FromArgMatches for ServeArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = Self::default();
        arguments.update_from_arg_matches(matches)?;
        Ok(arguments)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>(CONFIG).cloned();
        for setting in SETTINGS.iter().filter(|setting| setting.flag.is_some()) {
            if let Some(value) = matches.get_one::<String>(&setting.key) {
                self.values.insert(setting.key.as_str(), value.clone());
            }
        }
        Ok(())
    }
}

/// The flag of a setting. Its value stays text here, so that a wrong one is reported
/// together with those of the environment and the file.
fn flag(setting: &'static Setting) -> Option<Arg> {
    let flag = setting.flag.as_deref()?;
    let default = match (&setting.default, setting.shape) {
        (Some(_), Shape::Boolean) | (None, _) => String::new(),
        (Some(value), _) => format!(" [default: {}]", Setting::show(value)),
    };
    let choices = match setting.choices.as_slice() {
        [] => String::new(),
        some => format!(" [possible values: {}]", some.join(", ")),
    };
    let variable = setting.variable.as_ref();
    let variable = variable.map_or(String::new(), |variable| format!(" [env: {variable}]"));
    let argument = Arg::new(setting.key.as_str())
        .long(flag)
        .help(format!(
            "{}{choices}{default}{variable}",
            setting.description
        ))
        .help_heading(setting.heading.as_str());
    Some(match setting.shape {
        Shape::Boolean => argument
            .value_name("BOOLEAN")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Shape::Integer => argument.value_name("NUMBER"),
        Shape::List | Shape::Tables => argument.value_name("A,B,..."),
        Shape::Text => argument.value_name(value_name(setting)),
    })
}

fn value_name(setting: &Setting) -> &'static str {
    let default = setting.default.as_ref().map(Setting::show);
    let is_duration = default.is_some_and(|text| super::duration::parse(&text).is_ok());
    if is_duration { "DURATION" } else { "VALUE" }
}
