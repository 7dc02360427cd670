//! Ordinary SQL, through tokio-postgres over streams of our own.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Config};

use super::Error;
use super::connect::{Login, Stream, Target, open};

/// A connection for SQL; it derefs to [`tokio_postgres::Client`], whose
/// errors turn into [`Error`] by `?`. Dropping it closes the connection.
pub struct Client {
    inner: tokio_postgres::Client,
    canceller: Canceller,
    server_version: String,
    // Aborted when dropped, so that no connection outlives its client.
    _driver: JoinSet<()>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.canceller.target)
            .finish_non_exhaustive()
    }
}

/// Connects and logs in within `limit`.
pub async fn connect(target: &Target, login: &Login, limit: Duration) -> Result<Client, Error> {
    connect_as(target, login, "howdah", limit).await
}

/// As [`connect`], under an `application_name` that tells people what the
/// connection is for.
pub async fn connect_as(
    target: &Target,
    login: &Login,
    application: &str,
    limit: Duration,
) -> Result<Client, Error> {
    log_in(target, login, application, "", limit).await
}

/// What a superuser's session goes by, whatever the server's settings say and whatever
/// the owner of a database has set for it: options of the startup packet beat both.
/// No object of a user is found by a name that means one of PostgreSQL's own, no
/// statement waits for a standby, and none is ended or refused by a default.
const STEADY: &str = "-c role=none -c search_path=pg_catalog -c synchronous_commit=local \
     -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed \
     -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0";

/// As [`connect_as`], all of it within `limit`, for the work of a superuser: under settings of its own, and with
/// an end to each statement after `statement_limit`. For PostgreSQL 14 and later.
pub async fn administer(
    target: &Target,
    login: &Login,
    application: &str,
    limit: Duration,
    statement_limit: Duration,
) -> Result<Client, Error> {
    let end = statement_limit.as_millis();
    let options = format!("{STEADY} -c statement_timeout={end}");
    let work = async {
        let client = log_in(target, login, application, &options, limit).await?;
        // A server that does not know it would refuse the startup packet.
        if client.server_major().is_some_and(|major| major >= 17) {
            client.batch_execute("set transaction_timeout = 0").await?;
        }
        Ok(client)
    };
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Error::Timeout)?
}

async fn log_in(
    target: &Target,
    login: &Login,
    application: &str,
    options: &str,
    limit: Duration,
) -> Result<Client, Error> {
    let work = async {
        let stream = open(target, limit).await?;
        // Large, and made once per connection.
        Box::pin(start(stream, target, login, application, options)).await
    };
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Error::Timeout)?
}

async fn start(
    stream: Stream,
    target: &Target,
    login: &Login,
    application: &str,
    options: &str,
) -> Result<Client, Error> {
    let mut config = Config::new();
    // The stream is encrypted already, or was not to be: "direct" keeps
    // tokio-postgres from asking for TLS, "require" makes it take `Opened`
    // and with it the channel binding.
    config
        .user(&login.user)
        .dbname(&login.database)
        .application_name(application)
        .options(options)
        .ssl_mode(SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    if let Some(password) = &login.password {
        config.password(password.expose_secret());
    }
    let (inner, connection) = config.connect_raw(stream, Opened).await?;
    let server_version = connection
        .parameter("server_version")
        .unwrap_or_default()
        .to_owned();
    let canceller = Canceller {
        token: inner.cancel_token(),
        target: target.clone(),
    };
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Its error reaches whoever waits for a reply, as "closed".
        let _ = connection.await;
    });
    Ok(Client {
        inner,
        canceller,
        server_version,
        _driver: driver,
    })
}

impl Client {
    /// What cancels the statement that runs on this connection.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// The server's version as it writes it, such as `15.18 (Debian ...)`.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// The major version, if the server wrote one that can be read.
    pub fn server_major(&self) -> Option<u32> {
        let end = self.server_version.find(|c: char| !c.is_ascii_digit());
        self.server_version
            .get(..end.unwrap_or(self.server_version.len()))?
            .parse()
            .ok()
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.inner
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Client {
        &mut self.inner
    }
}

/// Cancels what a [`Client`] runs, over a connection of its own.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    target: Target,
}

impl Canceller {
    /// Asks the server to cancel the running statement. It has an effect only
    /// on a statement that has not ended by then; the server does not say.
    pub async fn cancel(&self, limit: Duration) -> Result<(), Error> {
        let work = async {
            let stream = open(&self.target, limit).await?;
            Ok(self.token.cancel_query_raw(stream, Opened).await?)
        };
        tokio::time::timeout(limit, work)
            .await
            .map_err(|_| Error::Timeout)?
    }
}

/// Hands tokio-postgres a stream on which TLS is settled.
struct Opened;

impl TlsConnect<Stream> for Opened {
    type Stream = Bound;
    type Error = Infallible;
    type Future = Ready<Result<Bound, Infallible>>;

    fn connect(self, stream: Stream) -> Self::Future {
        let greeting = (!stream.is_private()).then(Vec::new);
        ready(Ok(Bound { stream, greeting }))
    }
}

/// A [`Stream`] that tells tokio-postgres its channel binding, and keeps it
/// from sending a password in clear text over an open connection.
struct Bound {
    stream: Stream,
    // The server's first bytes, until they are enough to judge it by.
    greeting: Option<Vec<u8>>,
}

impl Bound {
    fn judge(&mut self, read: &[u8]) -> io::Result<()> {
        const CLEAR_TEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
        let Some(greeting) = &mut self.greeting else {
            return Ok(());
        };
        let missing = CLEAR_TEXT
            .len()
            .saturating_sub(greeting.len())
            .min(read.len());
        greeting.extend_from_slice(read.get(..missing).unwrap_or_default());
        if greeting == CLEAR_TEXT {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the server wants the password in clear text over an open connection",
            ));
        }
        if greeting.len() >= CLEAR_TEXT.len() {
            self.greeting = None;
        }
        Ok(())
    }
}

impl TlsStream for Bound {
    fn channel_binding(&self) -> ChannelBinding {
        match self.stream.channel_binding() {
            Some(binding) => ChannelBinding::tls_server_end_point(binding.to_vec()),
            None => ChannelBinding::none(),
        }
    }
}

impl AsyncRead for Bound {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                Poll::Ready(this.judge(buf.filled().get(before..).unwrap_or_default()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for Bound {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
