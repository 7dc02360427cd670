//! Opening a byte stream to a server: TCP or Unix socket, then TLS.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Error;
use super::tls::{Tls, client_config, server_end_point};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A host name or an IP address.
    Tcp(String),
    /// The directory that holds the socket `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

/// A server and how to reach it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub host: Host,
    /// The port; for a Unix socket it is part of the file's name.
    pub port: u16,
    /// How much TLS is asked for.
    pub tls: Tls,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Host::Tcp(host) => write!(f, "{host}:{}", self.port),
            Host::Unix(dir) => write!(f, "{}/.s.PGSQL.{}", dir.display(), self.port),
        }
    }
}

/// Who logs in, and where to.
#[derive(Clone, Debug)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password, where the server asks for one.
    pub password: Option<SecretString>,
    /// The database.
    pub database: String,
}

/// A byte stream to a server. Nothing of the protocol was spoken on it but
/// the request for TLS.
pub struct Stream {
    inner: Inner,
    channel_binding: Option<Vec<u8>>,
}

enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether TLS is on.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.inner, Inner::Tls(_))
    }

    /// Whether nobody on a network can listen: TLS or a Unix socket.
    pub fn is_private(&self) -> bool {
        !matches!(self.inner, Inner::Tcp(_))
    }

    /// Gives the connection up when bytes of ours stay unacknowledged for
    /// this long, instead of the quarter of an hour that is usual. Not for
    /// connections whose peer may leave much unread in good health (COPY).
    pub(super) fn set_send_timeout(&self, limit: Duration) {
        let socket = match &self.inner {
            Inner::Tcp(socket) => socket,
            Inner::Tls(stream) => stream.get_ref().0,
            Inner::Unix(_) => return,
        };
        let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        // Without it a dead peer is only found later.
        let _ = sockopt::set_tcp_user_timeout(socket, millis);
    }

    /// The `tls-server-end-point` binding (RFC 5929), where there is one.
    pub fn channel_binding(&self) -> Option<&[u8]> {
        self.channel_binding.as_deref()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("encrypted", &self.is_encrypted())
            .finish_non_exhaustive()
    }
}

/// Opens a stream to the server, TLS included, within `limit`.
pub async fn open(target: &Target, limit: Duration) -> Result<Stream, Error> {
    tokio::time::timeout(limit, open_unbounded(target))
        .await
        .map_err(|_| Error::Timeout)?
}

async fn open_unbounded(target: &Target) -> Result<Stream, Error> {
    let host = match &target.host {
        Host::Unix(dir) => {
            let path = dir.join(format!(".s.PGSQL.{}", target.port));
            let socket = UnixStream::connect(path).await.map_err(Error::Connect)?;
            return Ok(Stream {
                inner: Inner::Unix(socket),
                channel_binding: None,
            });
        }
        Host::Tcp(host) => host,
    };
    let plain = |socket| Stream {
        inner: Inner::Tcp(socket),
        channel_binding: None,
    };
    let mut socket = dial(host, target.port).await?;
    if matches!(target.tls, Tls::Disable) {
        return Ok(plain(socket));
    }
    let optional = matches!(target.tls, Tls::Prefer);
    if !ask_for_tls(&mut socket).await? {
        return match optional {
            true => Ok(plain(socket)),
            false => Err(Error::Tls("the server has no TLS".into())),
        };
    }
    match handshake(socket, host, &target.tls).await {
        // As libpq does: where TLS is only preferred, a handshake that fails
        // (old versions, broken certificate) is no reason to give up.
        Err(_) if optional => Ok(plain(dial(host, target.port).await?)),
        outcome => outcome,
    }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, Error> {
    let socket = TcpStream::connect((host, port))
        .await
        .map_err(Error::Connect)?;
    socket.set_nodelay(true).map_err(Error::Connect)?;
    // A peer that vanished without a word is found after about two minutes,
    // also while we only wait for it (a slot that is being made).
    let keepalive = || {
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(&socket, 4)
    };
    keepalive().map_err(|e| Error::Connect(e.into()))?;
    Ok(socket)
}

/// SSLRequest and its one byte of answer.
async fn ask_for_tls(socket: &mut TcpStream) -> Result<bool, Error> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    socket.write_all(&SSL_REQUEST).await?;
    // Room for two bytes: a second one was put there by somebody between us
    // and the server, to be taken for part of the encrypted conversation.
    let mut answer = [0u8; 2];
    match (socket.read(&mut answer).await?, answer) {
        (0, _) => Err(Error::Closed),
        (1, [b'S', _]) => Ok(true),
        (1, [b'N', _]) => Ok(false),
        // An error sent here is not authenticated by anything: not shown.
        (_, [b'E', _]) => Err(Error::protocol(
            "the server answered the request for TLS with an error",
        )),
        (1, _) => Err(Error::protocol("unknown answer to the request for TLS")),
        _ => Err(Error::protocol(
            "unencrypted bytes before the TLS handshake",
        )),
    }
}

async fn handshake(socket: TcpStream, host: &str, tls: &Tls) -> Result<Stream, Error> {
    let name = ServerName::try_from(host.to_owned()).map_err(|e| Error::Tls(e.to_string()))?;
    let connector = TlsConnector::from(Arc::new(client_config(tls)?));
    let stream = connector
        .connect(name, socket)
        .await
        .map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::Closed,
            _ => Error::Tls(e.to_string()),
        })?;
    let certificates = stream.get_ref().1.peer_certificates();
    let channel_binding = certificates
        .and_then(|chain| chain.first())
        .and_then(|leaf| server_end_point(leaf));
    Ok(Stream {
        inner: Inner::Tls(Box::new(stream)),
        channel_binding,
    })
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Inner::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Inner::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Inner::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Inner::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(s) => Pin::new(s).poll_flush(cx),
            Inner::Unix(s) => Pin::new(s).poll_flush(cx),
            Inner::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Inner::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Inner::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
