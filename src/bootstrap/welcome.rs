//! Prints what a new user needs: the endpoints, and what to type next.

use std::io::Write;

use crate::{
    api::listener::BindAddress,
    config::{ClientCertificates, Config, LogFormat},
};

/// Prints to standard output; logs go to standard error.
pub(super) fn print(config: &Config, address: &BindAddress, admin: &str) {
    let text = match config.log.format {
        LogFormat::Pretty => text(config, address, admin),
        LogFormat::Json => format!("{}\n", line(config, address, admin)),
    };
    // Standard output may be closed, which is no reason to end the process.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The same as one line of JSON, for log collectors that accept nothing else.
fn line(config: &Config, address: &BindAddress, admin: &str) -> serde_json::Value {
    serde_json::json!({
        "level": "INFO",
        "message": "howdah serves gRPC",
        "version": env!("CARGO_PKG_VERSION"),
        "address": address.to_string(),
        "metrics": format!("http://{admin}/metrics"),
        "metadata": metadata(config),
    })
}

fn metadata(config: &Config) -> String {
    match &config.database_url {
        Some(_) => "the database of HOWDAH_DATABASE_URL".to_owned(),
        None => format!("embedded in {}", config.data_dir.display()),
    }
}

fn text(config: &Config, address: &BindAddress, admin: &str) -> String {
    let metadata = metadata(config);
    let (endpoint, grpcurl) = hints(config, address);
    format!(
        "howdah {} serves gRPC on {address}, metrics on http://{admin}/metrics\n\
         metadata: {metadata}\n\
         \n\
         what to type next, in another shell:\n\
         \x20 howdah instances create orders --wait --endpoint {endpoint}\n\
         \x20 howdah databases create orders/shop --wait --endpoint {endpoint}\n\
         \x20 howdah connection orders/shop --endpoint {endpoint}\n\
         or, with grpcurl and no proto files:\n\
         \x20 grpcurl {grpcurl} list\n",
        env!("CARGO_PKG_VERSION"),
    )
}

/// How to call the API with our client and with grpcurl. The names of client certificate files
/// are placeholders, because they are not known here.
fn hints(config: &Config, address: &BindAddress) -> (String, String) {
    let tcp = match address {
        BindAddress::Tcp(tcp) => tcp,
        BindAddress::Unix(path) => {
            let grpcurl = format!("-plaintext -unix {}", path.display());
            return (address.to_string(), grpcurl);
        }
    };
    if !config.tls.enabled() {
        return (tcp.to_string(), format!("-plaintext {tcp}"));
    }
    let mut endpoint = format!("https://{tcp} --ca CA.pem");
    let mut grpcurl = "-cacert CA.pem ".to_owned();
    if config.tls.client_certificates == ClientCertificates::Required {
        endpoint.push_str(" --cert CLIENT.pem --key CLIENT.key");
        grpcurl.push_str("-cert CLIENT.pem -key CLIENT.key ");
    }
    (endpoint, format!("{grpcurl}{tcp}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_fit_how_it_listens() {
        let mut config = Config::default();
        let tcp = BindAddress::Tcp(([127, 0, 0, 1], 7717).into());
        let (endpoint, grpcurl) = hints(&config, &tcp);
        assert_eq!(endpoint, "127.0.0.1:7717");
        assert_eq!(grpcurl, "-plaintext 127.0.0.1:7717");
        let (endpoint, grpcurl) = hints(&config, &BindAddress::Unix("/run/s".into()));
        assert_eq!(endpoint, "unix:/run/s");
        assert_eq!(grpcurl, "-plaintext -unix /run/s");
        config.tls.certificate = Some("c".into());
        let (endpoint, grpcurl) = hints(&config, &tcp);
        assert_eq!(endpoint, "https://127.0.0.1:7717 --ca CA.pem");
        assert_eq!(grpcurl, "-cacert CA.pem 127.0.0.1:7717");
        config.tls.client_certificates = ClientCertificates::Required;
        let (endpoint, grpcurl) = hints(&config, &tcp);
        assert!(endpoint.ends_with("--cert CLIENT.pem --key CLIENT.key"));
        assert!(grpcurl.contains("-cert CLIENT.pem -key CLIENT.key"));
    }
}
