//! What the first user reads: where it listens and what to type next.

use std::io::Write;

use crate::{api::listener::Address, config::Config};

/// Prints to standard output, where no log goes.
pub(super) fn print(config: &Config, address: &Address, admin: &str) {
    let metadata = match &config.database_url {
        Some(_) => "the database of HOWDAH_DATABASE_URL".to_owned(),
        None => format!("embedded in {}", config.data_dir.display()),
    };
    let plain = if config.tls.enabled() {
        ""
    } else {
        "-plaintext "
    };
    let next = format!(
        "howdah {} serves gRPC on {address}, metrics on http://{admin}/metrics\n\
         metadata: {metadata}\n\
         \n\
         what to type next, in another shell:\n\
         \x20 howdah instances create orders --wait --endpoint {address}\n\
         \x20 howdah databases create orders/shop --wait --endpoint {address}\n\
         \x20 howdah connection orders/shop --endpoint {address}\n\
         or, with grpcurl and no proto files:\n\
         \x20 grpcurl {plain}{address} list\n",
        env!("CARGO_PKG_VERSION"),
    );
    // Nobody may be reading; that is no reason to stop.
    let _ = std::io::stdout().write_all(next.as_bytes());
}
