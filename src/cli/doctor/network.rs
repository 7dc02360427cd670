//! Checks that addresses and ports are free to listen on.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::net::UnixStream,
};

use crate::{
    bootstrap::listening,
    config::{Config, Finding, ListenAddress},
};

/// Number of free ports below which the range is almost used up.
const FEW: usize = 20;

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let data_dir = &config.data_dir;
    let api = || listening(data_dir).map(|ours| ours.api);
    let admin = || listening(data_dir).map(|ours| ours.admin);
    let mut findings = vec![
        address("listen address", "listen", &config.listen, api),
        address("admin address", "admin-listen", &config.admin_listen, admin),
    ];
    findings.extend(
        config
            .local
            .listen_addresses
            .iter()
            .map(|ip| ports(config, *ip)),
    );
    findings
}

/// Checks that an address is free, or in use by the process that serves from the data directory.
/// `ours` returns the endpoint of that process.
fn address<const PORT: u16>(
    check: &str,
    flag: &str,
    address: &ListenAddress<PORT>,
    ours: impl Fn() -> Option<String>,
) -> Finding {
    let taken = match address {
        ListenAddress::Tcp(address) => TcpListener::bind(address).err(),
        ListenAddress::Unix(path) => UnixStream::connect(path)
            .ok()
            .map(|_| ErrorKind::AddrInUse.into()),
    };
    match taken {
        None => Finding::ok(check, format!("{address} is free")),
        Some(error) if error.kind() == ErrorKind::AddrInUse => {
            taken_address(check, flag, &address.to_string(), ours())
        }
        Some(error) => Finding::fail(
            check,
            format!("cannot listen on {address}: {error}"),
            format!("set --{flag} to an address of this machine"),
        ),
    }
}

fn taken_address(check: &str, flag: &str, address: &str, ours: Option<String>) -> Finding {
    match ours {
        Some(ours) if ours == address => Finding::ok(
            check,
            format!("{address} is held by the process that serves from this data directory"),
        ),
        Some(ours) if ours.is_empty() => Finding::warn(
            check,
            format!(
                "something listens on {address} already; a process that uses this data \
                 directory is starting or stopping"
            ),
            "run this again when that serves or has ended",
        ),
        _ => Finding::fail(
            check,
            format!("something listens on {address} already"),
            format!("`ss -ltnp` shows what; stop it, or set --{flag} (port 0 takes a free one)"),
        ),
    }
}

/// Counts the free ports of the range on one address.
fn ports(config: &Config, ip: IpAddr) -> Finding {
    let (check, range) = ("ports", config.local.ports);
    let all = range.first()..=range.last();
    let free = all
        .filter(|port| TcpListener::bind(SocketAddr::new(ip, *port)).is_ok())
        .count();
    let message = format!("{free} of {range} are free on {ip}");
    match free {
        0 => Finding::fail(check, message, "set --local-ports to another range"),
        1..FEW => Finding::warn(check, message, "set --local-ports to a wider range"),
        _ => Finding::ok(check, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::finding::Status;

    #[test]
    fn a_taken_address_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = ListenAddress::<0>::Tcp(listener.local_addr().unwrap());
        let finding = address("x", "listen", &taken, || None);
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.remedy.contains("--listen"));
        for (ours, status) in [
            (taken.to_string(), Status::Ok),
            (String::new(), Status::Warn),
            ("127.0.0.1:1".to_owned(), Status::Fail),
        ] {
            let finding = address("x", "listen", &taken, || Some(ours.clone()));
            assert_eq!(finding.status, status, "{ours}");
        }
        let free = ListenAddress::<0>::default();
        assert_eq!(address("x", "listen", &free, || None).status, Status::Ok);
        let foreign = ListenAddress::<0>::Tcp("192.0.2.1:0".parse().unwrap());
        assert_eq!(
            address("x", "listen", &foreign, || None).status,
            Status::Fail
        );
    }

    #[test]
    fn a_range_without_a_free_port_is_noticed() {
        // A port below those of outgoing connections, which the range of local servers may
        // contain.
        let taken = (20_000..30_000).find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
        let listener = taken.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut config = Config::default();
        config.local.ports = format!("{port}-{port}").parse().unwrap();
        let local = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(ports(&config, local).status, Status::Fail);
    }
}
