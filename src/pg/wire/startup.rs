//! From a fresh stream to a session that is ready for queries.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;

use super::auth::authenticate;
use super::backend;
use super::channel::Channel;
use super::cursor::Cursor;
use crate::pg::connect::open;
use crate::pg::{Error, Login, Target};

/// Replies to startup and commands are small; rows of the stream have a bound
/// of their own.
const REPLY_LIMIT: usize = 4 * 1024 * 1024;

/// What a cancel request names: the backend and its secret.
#[derive(Clone)]
pub struct BackendKey {
    /// The backend's process, as in `pg_stat_activity`.
    pub pid: i32,
    secret: Bytes,
}

impl std::fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendKey")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// A session that has just become ready for queries.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub channel: Channel,
    /// What cancels its statements.
    pub key: Option<BackendKey>,
    /// What the server reported of its settings (`server_version` and so on).
    pub parameters: HashMap<String, String>,
}

/// Opens a stream, sends the startup packet with `parameters`, authenticates,
/// and waits until the server is ready; all within `limit`.
pub async fn log_in(
    target: &Target,
    login: &Login,
    parameters: &[(&str, &str)],
    limit: Duration,
) -> Result<Session, Error> {
    let work = async {
        let mut channel = start(target, login, parameters, limit).await?;
        authenticate(&mut channel, login).await?;
        let (key, parameters) = ready(&mut channel).await?;
        Ok(Session {
            channel,
            key,
            parameters,
        })
    };
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Error::Timeout)?
}

async fn start(
    target: &Target,
    login: &Login,
    parameters: &[(&str, &str)],
    limit: Duration,
) -> Result<Channel, Error> {
    let mut channel = Channel::new(open(target, limit).await?, REPLY_LIMIT);
    let who = [
        ("user", login.user.as_str()),
        ("database", login.database.as_str()),
    ];
    let all = who.into_iter().chain(parameters.iter().copied());
    channel
        .send_with(|out| frontend::startup_message(all, out))
        .await?;
    Ok(channel)
}

async fn ready(
    channel: &mut Channel,
) -> Result<(Option<BackendKey>, HashMap<String, String>), Error> {
    let mut key = None;
    let mut parameters = HashMap::new();
    loop {
        let frame = channel.read().await?;
        match frame.tag {
            b'Z' => return Ok((key, parameters)),
            b'S' => parameters.extend([backend::parameter(&frame.body)?]),
            b'K' => key = Some(backend_key(&frame.body)?),
            b'N' => {}
            b'E' => return Err(Error::Server(Box::new(backend::notice(&frame.body)?))),
            other => {
                let tag = char::from(other);
                return Err(Error::protocol(format!("message {tag:?} while starting")));
            }
        }
    }
}

fn backend_key(body: &[u8]) -> Result<BackendKey, Error> {
    let mut cursor = Cursor::new(body);
    let pid = cursor.i32()?;
    let secret = cursor.rest();
    // Four bytes up to protocol 3.0, up to 256 from 3.2 on.
    if !(4..=256).contains(&secret.len()) {
        return Err(Error::protocol("a cancel key of impossible length"));
    }
    Ok(BackendKey {
        pid,
        secret: Bytes::copy_from_slice(secret),
    })
}

/// Asks the server to cancel what the backend runs, over a connection of its
/// own. The server does not say whether there was anything to cancel.
pub async fn cancel(target: &Target, key: &BackendKey, limit: Duration) -> Result<(), Error> {
    let work = async {
        let mut stream = open(target, limit).await?;
        let mut out = BytesMut::new();
        out.put_u32(12 + u32::try_from(key.secret.len()).unwrap_or(u32::MAX));
        out.put_u32(80_877_102);
        out.put_i32(key.pid);
        out.put_slice(&key.secret);
        stream.write_all(&out).await?;
        stream.flush().await?;
        Ok(stream.shutdown().await?)
    };
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Error::Timeout)?
}

/// Whether the server turns new sessions away because it is stopping. It says
/// so before it looks at any password, so none is sent: the connection ends
/// at the server's first word.
pub async fn is_shutting_down(target: &Target, login: &Login, limit: Duration) -> bool {
    let work = async {
        let mut channel = start(target, login, &[], limit).await?;
        let frame = channel.read().await?;
        match frame.tag {
            b'E' => Ok(backend::notice(&frame.body)?.code == "57P03"),
            _ => Ok::<_, Error>(false),
        }
    };
    matches!(tokio::time::timeout(limit, work).await, Ok(Ok(true)))
}
