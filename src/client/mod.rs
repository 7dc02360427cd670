//! A typed client of the API: connects, retries, waits for operations.

mod calls;
mod endpoint;
mod error;
mod wait;

use std::{future::Future, path::PathBuf, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use tonic::{Request, Response, Status, transport::Channel};

pub use self::{
    error::{Error, Failure},
    wait::{Wait, unpack},
};

/// Result of all client calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// PEM file with the CAs of the server's certificate. None means the CAs of the machine.
    pub ca: Option<PathBuf>,
    /// PEM file with the client's certificate.
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key of the client's certificate.
    pub key: Option<PathBuf>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest time of one attempt at a call. Streams have no limit.
    pub call_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ca: None,
            certificate: None,
            key: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(60),
        }
    }
}

/// Checks an endpoint and its TLS files without a connection.
///
/// # Errors
/// [`Error::Options`].
pub fn check(endpoint: &str, options: &Options) -> Result<()> {
    endpoint::prepare(endpoint, options).map(|_| ())
}

/// A connection to a Howdah server. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    call_timeout: Duration,
}

impl Client {
    /// Connects to `http://HOST:PORT`, `https://HOST:PORT`, `unix:PATH` or `HOST:PORT`. The last
    /// form means https if TLS files are given, otherwise http.
    ///
    /// # Errors
    /// [`Error::Options`] for a malformed endpoint or unreadable files,
    /// [`Error::Unreachable`] when no server answers.
    pub async fn connect(endpoint: &str, options: &Options) -> Result<Self> {
        let channel = endpoint::prepare(endpoint, options)?
            .connect()
            .await
            .map_err(|error| Error::unreachable(endpoint, &error))?;
        Ok(Self {
            channel,
            call_timeout: options.call_timeout,
        })
    }

    /// Calls, and retries after UNAVAILABLE and BUDGET_EXHAUSTED, with the delay that the server
    /// requests.
    async fn retried<T, F>(&self, call: impl Fn(Channel) -> F, retries: Retries) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let attempt = || async {
            let answer = call(self.channel.clone()).await;
            answer.map(Response::into_inner).map_err(Error::from)
        };
        attempt
            .retry(retries.backoff())
            .when(Error::passes)
            .adjust(|error: &Error, delay| {
                delay.map(|delay| {
                    error
                        .retry_after()
                        .map_or(delay, |wanted| wanted.max(delay))
                })
            })
            .await
    }

    /// A request with the client's timeout, which the server gets too.
    fn bounded<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.call_timeout);
        request
    }
}

/// How long a call is retried.
#[derive(Clone, Copy)]
enum Retries {
    /// Never, because the call may have had its effect already.
    None,
    /// For a few seconds.
    Short,
    /// For as long as a restart of the server takes.
    Restart,
}

impl Retries {
    fn backoff(self) -> ExponentialBuilder {
        let backoff = ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2));
        match self {
            Self::None => backoff.with_max_times(0),
            Self::Short => backoff.with_max_times(5),
            Self::Restart => backoff.with_max_times(40),
        }
    }
}
