//! The `howdah` program: parses arguments and hands over to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // rustls panics at its first use where no provider was chosen. A second choice
    // is an error, and there is none before this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _armed = howdah::failpoint::arm();
    howdah::cli::run()
}
