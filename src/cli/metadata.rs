//! `howdah metadata`.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand, ValueHint};
use serde_json::json;

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    output::data,
    to_its_end,
};
use crate::{
    bootstrap::{self, Adopted, Destination},
    config::{BriefArguments, Config},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a backup of the embedded metadata, with the settings of `serve`
    Backup(Backup),
    /// Put a backup in the place of the embedded metadata, which nobody may serve
    Restore(Restore),
    /// Make `local.root` that of the present metadata, after other metadata was lost
    AdoptRoot(BriefArguments),
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// File to write, or `-` for standard output
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    settings: BriefArguments,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// Backup to restore; only one that you trust, since it can hold any SQL
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present = "former")]
    file: Option<PathBuf>,
    /// Put back what was there before the last restore
    #[arg(long, conflicts_with = "file")]
    former: bool,
    #[command(flatten)]
    settings: BriefArguments,
}

/// Result of a command: text for standard error, and JSON for programs.
struct Told {
    text: String,
    json: serde_json::Value,
    /// Whether standard output already contains the backup.
    stdout_is_taken: bool,
}

pub(super) fn run(command: Command, output: Output) -> Result<Exit, Failure> {
    let report = match command {
        Command::Backup(arguments) => backup(arguments)?,
        Command::Restore(arguments) => restore(arguments)?,
        Command::AdoptRoot(arguments) => adopt_root(&arguments)?,
    };
    // The command has succeeded even if this output cannot be written.
    let _ = match output {
        output if !output.is_data() => io::stderr().write_all(report.text.as_bytes()),
        output if report.stdout_is_taken => {
            writeln!(io::stderr(), "{}", data(&report.json, output)?)
        }
        output => writeln!(io::stdout(), "{}", data(&report.json, output)?),
    };
    Ok(Exit::Success)
}

fn backup(arguments: Backup) -> Result<Told, Failure> {
    let stdout_is_taken = arguments.file.as_os_str() == "-";
    if stdout_is_taken && io::stdout().is_terminal() {
        let message = "a backup is not written to a terminal: give a file, or pipe it on";
        return Err(Failure::new(Exit::Usage, message));
    }
    let config = Config::load(&arguments.settings)?;
    let place = config.data_dir.clone();
    let to = match stdout_is_taken {
        true => Destination::Stdout,
        false => Destination::File(arguments.file.clone()),
    };
    let backup = to_its_end(bootstrap::backup(config, to, arguments.force))?;
    let file = arguments.file.display().to_string();
    let mut text = format!("backed up the metadata in {}", place.display());
    if let Some(bytes) = backup.bytes {
        text = format!("{text}: {file}, {bytes} bytes");
    }
    let key = match &backup.secret_key {
        Some(file) => file.display().to_string(),
        None => "the secret key of the settings".to_owned(),
    };
    text.push_str(&format!(
        "\nkeep {key} too, apart from it: without the key the passwords in the backup cannot be \
         read\n"
    ));
    let missing = (!backup.secret_key_present).then(|| format!("{key} is missing"));
    let warnings: Vec<String> = missing
        .into_iter()
        .chain(backup.secret_key_exposed)
        .collect();
    for warning in &warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    let json = json!({
        "file": file,
        "bytes": backup.bytes,
        "secretKeyFile": backup.secret_key,
        "warnings": warnings,
    });
    Ok(Told {
        text,
        json,
        stdout_is_taken,
    })
}

fn restore(arguments: Restore) -> Result<Told, Failure> {
    let Some(file) = arguments.file else {
        return restore_former(&arguments.settings);
    };
    if file.as_os_str() == "-" {
        let message = "a restore reads the file twice, so standard input will not do: write it \
                       to a file first";
        return Err(Failure::new(Exit::Usage, message));
    }
    let config = Config::load(&arguments.settings)?;
    let place = config.data_dir.display().to_string();
    let shown = file.display().to_string();
    let restored = to_its_end(bootstrap::restore(config, file))?;
    let mut text = format!(
        "restored the metadata in {place} from {shown}, a backup of PostgreSQL {}\n",
        restored.taken_from
    );
    if restored.replaced {
        text.push_str(
            "what was there before is kept until the next restore: `howdah metadata restore \
             --former` puts it back\n",
        );
    }
    if restored.needs_former_key {
        text.push_str(
            "secrets in it are sealed with a former key: the next start needs \
             HOWDAH_SECRET_KEY_PREVIOUS (or its file) too, until the rotation is finished again\n",
        );
    }
    text.push_str("start `howdah serve`, then run `howdah doctor`\n");
    let json = json!({
        "file": shown,
        "takenFrom": restored.taken_from.to_string(),
        "formerKept": restored.replaced,
        "formerKeyNeeded": restored.needs_former_key,
    });
    Ok(Told {
        text,
        json,
        stdout_is_taken: false,
    })
}

fn adopt_root(settings: &BriefArguments) -> Result<Told, Failure> {
    let config = Config::load(settings)?;
    let root = config.local.root.display().to_string();
    let Adopted { metadata, former } = to_its_end(bootstrap::adopt_root(config))?;
    let mut text = match former {
        Some(former) if former == metadata => format!("{root} belonged to this metadata before\n"),
        Some(former) => format!(
            "{root} belongs to this metadata now ({metadata}), and not to {former} any more\n"
        ),
        None => format!("{root} belongs to this metadata now ({metadata})\n"),
    };
    text.push_str("start `howdah serve`; `howdah doctor` names servers that no record knows\n");
    Ok(Told {
        text,
        json: json!({ "localRoot": root, "metadata": metadata, "formerMetadata": former }),
        stdout_is_taken: false,
    })
}

fn restore_former(settings: &BriefArguments) -> Result<Told, Failure> {
    let config = Config::load(settings)?;
    let place = config.data_dir.display().to_string();
    to_its_end(bootstrap::restore_former(config))?;
    Ok(Told {
        text: format!(
            "put back what was in {place} before the last restore; the same command undoes this\n"
        ),
        json: json!({ "formerKept": true }),
        stdout_is_taken: false,
    })
}
