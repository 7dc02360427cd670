//! The `howdah` program. Parses the arguments and calls `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // rustls panics at its first use if no crypto provider was installed. Installing a second
    // one is an error, which cannot happen here.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _armed = howdah::failpoint::arm();
    howdah::cli::run()
}
