//! Listening sockets.

use std::{
    fmt,
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::{
    auth::peer,
    domain::{Error, Reason, Result},
};

use super::Plain;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// TCP. Port 0 stands for any free port.
    Tcp(SocketAddr),
    /// A Unix socket at this path. Only the user that Howdah runs as may connect (mode 0600).
    Unix(PathBuf),
}

impl fmt::Display for BindAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// A bound socket. Dropping it removes the file of a Unix socket.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    address: BindAddress,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A new connection. No byte was read or written yet.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Plain,
    /// Address of the client.
    pub address: peer::PeerAddress,
}

impl Socket {
    /// Binds a socket.
    ///
    /// # Errors
    /// CONFIG_INVALID when the address cannot be bound.
    pub async fn bind(address: &BindAddress) -> Result<Self> {
        let bound = match address {
            BindAddress::Tcp(tcp) => bind_tcp(*tcp).await,
            BindAddress::Unix(path) => bind_unix(path).await,
        };
        bound.map_err(|error| {
            let message = format!("cannot listen on {address}: {error}");
            Error::new(Reason::ConfigInvalid, message).with_source(error)
        })
    }

    /// A socket that is already bound.
    ///
    /// # Errors
    /// When the kernel does not report its address.
    pub fn of(listener: TcpListener) -> io::Result<Self> {
        let address = BindAddress::Tcp(listener.local_addr()?);
        Ok(Self {
            kind: Kind::Tcp(listener),
            address,
        })
    }

    /// The address that it listens on. Port 0 is replaced by the port that was chosen.
    #[must_use]
    pub const fn address(&self) -> &BindAddress {
        &self.address
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted {
                    stream: Plain::Tcp(stream),
                    address: peer::PeerAddress::Tcp(address),
                })
            }
            Kind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok(Accepted {
                    stream: Plain::Unix(stream),
                    address: peer::PeerAddress::Unix { uid },
                })
            }
        }
    }
}

async fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    Socket::of(TcpListener::bind(address).await?)
}

async fn bind_unix(path: &Path) -> io::Result<Socket> {
    if fs::symlink_metadata(path).is_ok() {
        remove_stale(path).await?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(Socket {
        kind: Kind::Unix(listener),
        address: BindAddress::Unix(path.to_owned()),
    })
}

/// Removes a socket file that a killed process has left behind. Nobody accepts connections on
/// it.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(error),
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
    }
    // A connection to another kind of file is refused too; that file is kept.
    let kind = fs::symlink_metadata(path)?.file_type();
    if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::remove_file(path)
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let BindAddress::Unix(path) = &self.address {
            let _ = fs::remove_file(path);
        }
    }
}
