//! Chooses how to connect to a server: by its Unix socket, or by TCP if the socket is gone.
//!
//! Other programs clean up the directories that sockets lie in: a user's runtime directory
//! disappears with the last session, and /tmp is swept. The server keeps running and does not
//! notice.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::Duration,
};

use rustix::process::geteuid;
use tokio::net::UnixStream;

use super::{
    control::{Cluster, Found},
    directory::Directory,
    processes::PidFile,
};
use crate::{
    domain::{Error, Reason, Result},
    pg::Host,
};

/// Longest wait for an answer on a socket that a server is about to create.
const LISTENER: Duration = Duration::from_secs(1);

/// How this machine can connect to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By its Unix socket.
    Socket,
    /// By TCP on this loopback address, on which the server listens. The socket is gone.
    Loopback(IpAddr),
    /// By its socket in this directory, where a former `local.run_directory` put it: it
    /// listens on no loopback address.
    Elsewhere(PathBuf),
    /// Not at all: there is no socket, and the server does not listen on a loopback address.
    None,
}

impl Cluster {
    /// How the server can be reached now.
    pub(crate) fn way(&self) -> Way {
        if self.has_socket() {
            return Way::Socket;
        }
        match self.look_here() {
            Ok(Found::Running(file)) if file.port == Some(self.port) => {
                let elsewhere = || self.other_socket_directory(&file).map(Way::Elsewhere);
                let way = loopback(&file.listens_on).map(Way::Loopback);
                way.or_else(elsewhere).unwrap_or(Way::None)
            }
            Ok(_) | Err(_) => Way::None,
        }
    }

    /// The directory that the running server has its socket in, if that is another one than
    /// the settings give it: they were changed since its start.
    pub(crate) fn socket_elsewhere(&self) -> Option<PathBuf> {
        match self.look_here() {
            Ok(Found::Running(file)) => self.other_socket_directory(&file),
            Ok(_) | Err(_) => None,
        }
    }

    /// The user of the server writes the file. Only a directory of that user or of ours is
    /// taken from it.
    fn other_socket_directory(&self, file: &PidFile) -> Option<PathBuf> {
        let directory = file.socket_directory.as_ref()?;
        let facts = fs::symlink_metadata(directory).ok()?;
        let ours = [self.run_as.uid(), geteuid().as_raw()].contains(&facts.uid());
        let there = directory.join(self.socket_name()).exists();
        (directory != &self.socket_directory && ours && there).then(|| directory.clone())
    }

    /// The host to connect to.
    pub(crate) fn host(&self) -> Host {
        match self.way() {
            Way::Loopback(address) => Host::Tcp(address.to_string()),
            Way::Elsewhere(directory) => Host::Unix(directory),
            Way::Socket | Way::None => Host::Unix(self.socket_directory.clone()),
        }
    }

    /// Whether the file of its socket exists. Another process may listen on it.
    pub(crate) fn has_socket(&self) -> bool {
        self.socket().exists()
    }

    /// The error for a server that cannot be reached because its socket is gone.
    pub(crate) fn unreachable(&self) -> Error {
        let message = format!(
            "the server runs, but its Unix socket {} is gone and it does not listen on a loopback \
             address: a restart of the instance makes the socket anew",
            self.socket().display()
        );
        Error::new(Reason::ServerUnavailable, message)
    }

    /// Removes the socket of a former server and the socket's lock file. PostgreSQL would refuse
    /// to start if that lock file is damaged or names a pid that was reused. Only for a server
    /// that is down, because its socket is useless then.
    ///
    /// # Errors
    /// PORT_TAKEN when a process listens on the socket, for example a server on a copy of the
    /// data; DATA_DIR_DAMAGED when a directory is in the place of the socket.
    pub(crate) async fn clear_socket(&self, directory: &Directory) -> Result<()> {
        let socket = self.socket();
        let connected = tokio::time::timeout(LISTENER, UnixStream::connect(&socket)).await;
        // A start of a former process has come up in the meantime.
        if matches!(self.look().await?, Found::Running(_)) {
            return Ok(());
        }
        // No answer within the limit also means that a process listens.
        if !matches!(connected, Ok(Err(_))) {
            let message = format!(
                "another process listens on the server's socket {}: stop it, it may be a server \
                 on a copy of the data",
                socket.display()
            );
            return Err(Error::new(Reason::PortTaken, message));
        }
        let name = self.socket_name();
        directory.unlink(&name)?;
        directory.unlink(&format!("{name}.lock"))
    }

    fn socket(&self) -> PathBuf {
        self.socket_directory.join(self.socket_name())
    }

    fn socket_name(&self) -> String {
        format!(".s.PGSQL.{}", self.port)
    }
}

/// The loopback address of a server that listens on it or on all addresses. Only `127.0.0.1` and
/// `::1` are open to `howdah_admin`. On another one a different process may listen.
fn loopback(listens_on: &str) -> Option<IpAddr> {
    let near = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    match listens_on {
        "*" | "0.0.0.0" | "localhost" => near.first().copied(),
        "::" => near.last().copied(),
        other => other.parse().ok().filter(|address| near.contains(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_has_bound_is_used() {
        let found = |text| loopback(text).map(|address| address.to_string());
        assert_eq!(found("*").as_deref(), Some("127.0.0.1"));
        assert_eq!(found("127.0.0.1").as_deref(), Some("127.0.0.1"));
        assert_eq!(found("::").as_deref(), Some("::1"));
        for other in ["", "10.0.0.5", "127.0.0.2", "example.org"] {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
