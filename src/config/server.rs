//! Limits of the gRPC listener.

use std::{ops::RangeInclusive, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{
    Problem, duration,
    problem::{bound, require},
};

/// Smallest and largest `max_message_bytes`.
const MESSAGE_BYTES: RangeInclusive<usize> = 64 * 1024..=64 * 1024 * 1024;

/// How many of the largest messages `max_unfinished_bytes` has room for, at least. A
/// connection has a quarter of it, and the buffer of a message can be twice as large.
const MESSAGES: usize = 16;

/// Bounds of how many of something there may be.
const COUNT: RangeInclusive<usize> = 1..=1_000_000;

/// Bounds of `connection_max_age`.
const MAX_AGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);

/// Bounds of `connection_age_grace`.
const AGE_GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);

/// Bounds of `stream_write_timeout`.
const PAUSE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);

/// How many pages of 3 MiB `max_unread_bytes` has room for, at least: a connection has a
/// quarter of it.
const UNREAD_BYTES: usize = 16 * 1024 * 1024;

/// Bounds of `drain_timeout`.
const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=duration::HOUR;

/// Limits of the gRPC listener.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Most open connections, 1 to 1000000; the next one is closed at once.
    pub max_connections: usize,
    /// Most open connections from one IPv4 address or one /64 network of IPv6; the next
    /// one is closed at once. 0: half of `server.max_connections`.
    pub max_connections_per_address: usize,
    /// Networks of proxies as `10.0.0.0/8`, from which many callers come by one address:
    /// addresses there have no bounds of their own.
    #[serde(deserialize_with = "networks")]
    #[schemars(with = "Vec<String>")]
    pub proxies: Vec<IpNet>,
    /// Most streams at once on a connection; the client queues what is above.
    pub max_concurrent_streams: u32,
    /// Most calls that wait for their answer at once, 1 to 1000000; the next is refused
    /// as OVERLOADED. Waits and streams have bounds of their own.
    pub max_in_flight: usize,
    /// Most such calls of one caller. 0: half of `server.max_in_flight`.
    pub max_in_flight_per_caller: usize,
    /// Most calls of WaitOperation at once, 1 to 1000000; the next is refused as
    /// OVERLOADED.
    pub max_waits: usize,
    /// Most calls of WaitOperation of one caller at once. 0: half of `server.max_waits`.
    pub max_waits_per_caller: usize,
    /// Most change streams at once, 1 to 1000000; each holds three connections to its
    /// server. The next is refused as STREAMS_EXHAUSTED.
    pub max_streams: usize,
    /// Most change streams of one caller at once. 0: half of `server.max_streams`.
    pub max_streams_per_caller: usize,
    /// Largest request message in bytes.
    pub max_message_bytes: usize,
    /// Most bytes of requests that have not arrived as a whole, at least 16 times
    /// `server.max_message_bytes`; one caller may have half of them, one connection a
    /// quarter.
    pub max_unfinished_bytes: usize,
    /// Most bytes of answers that wait for their callers to read them, at least 16777216;
    /// one caller may have half of them, one connection a quarter.
    pub max_unread_bytes: usize,
    /// Longest time from the headers of a request to its end.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub arrival_timeout: Duration,
    /// Longest time for a unary call, and until a stream's answer begins; a client's
    /// shorter deadline holds. Waiting for an operation has a bound of its own.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub request_timeout: Duration,
    /// Silence after which a connection is sent an HTTP/2 PING.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub keepalive_interval: Duration,
    /// Longest wait for the answer of a PING; then the connection is closed.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub keepalive_timeout: Duration,
    /// Age at which a connection is told to go, up to a tenth more, so that clients
    /// spread over replicas again. 0s: never.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub connection_max_age: Duration,
    /// Longest time that calls of a connection that was told to go may still last. 0s:
    /// no limit.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub connection_age_grace: Duration,
    /// Longest time that a client may read nothing of an answer; then the call is reset.
    /// Also of its socket; then the connection is closed.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub write_timeout: Duration,
    /// Longest time that a client may read nothing of a change stream that has something
    /// for it; then the stream is reset.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub stream_write_timeout: Duration,
    /// Longest wait at shutdown for calls under way; the rest is cut off.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub drain_timeout: Duration,
    /// Most calls a second of one caller, as an average. 0: no limit.
    pub rate_limit_per_second: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_address: 0,
            proxies: Vec::new(),
            max_concurrent_streams: 256,
            max_in_flight: 1024,
            max_in_flight_per_caller: 0,
            max_waits: 4096,
            max_waits_per_caller: 0,
            max_streams: 256,
            max_streams_per_caller: 0,
            max_message_bytes: 4 * 1024 * 1024,
            max_unfinished_bytes: 64 * 1024 * 1024,
            max_unread_bytes: 256 * 1024 * 1024,
            arrival_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            connection_max_age: Duration::from_secs(30 * 60),
            connection_age_grace: Duration::from_secs(3600),
            write_timeout: Duration::from_secs(30),
            stream_write_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(15),
            rate_limit_per_second: 0,
        }
    }
}

/// Reads networks; one that is none is named.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let items = Vec::<String>::deserialize(deserializer)?;
    let network = |item: String| {
        item.parse()
            .map_err(|_| D::Error::custom(format!("`{item}` is not a network such as 10.0.0.1/32")))
    };
    items.into_iter().map(network).collect()
}

impl Server {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let streams = self.max_concurrent_streams > 0;
        let key = "server.max_concurrent_streams";
        require(problems, streams, key, "must be more than 0");
        let shares = [
            (
                ("server.max_connections", self.max_connections),
                "server.max_connections_per_address",
                self.max_connections_per_address,
            ),
            (
                ("server.max_in_flight", self.max_in_flight),
                "server.max_in_flight_per_caller",
                self.max_in_flight_per_caller,
            ),
            (
                ("server.max_waits", self.max_waits),
                "server.max_waits_per_caller",
                self.max_waits_per_caller,
            ),
            (
                ("server.max_streams", self.max_streams),
                "server.max_streams_per_caller",
                self.max_streams_per_caller,
            ),
        ];
        for ((key, all), each_key, each) in shares {
            require(problems, COUNT.contains(&all), key, "must be 1 to 1000000");
            let message = format!("must not be more than {key}, {all}");
            require(problems, each <= all, each_key, &message);
        }
        let needed = self.max_message_bytes.saturating_mul(MESSAGES);
        require(
            problems,
            MESSAGE_BYTES.contains(&self.max_message_bytes),
            "server.max_message_bytes",
            "must be 65536 to 67108864",
        );
        require(
            problems,
            self.max_unfinished_bytes >= needed,
            "server.max_unfinished_bytes",
            &format!(
                "must be at least {MESSAGES} times server.max_message_bytes, {}: set it to {needed} \
                 or more, not {}",
                self.max_message_bytes, self.max_unfinished_bytes
            ),
        );
        let waits = [
            ("server.request_timeout", self.request_timeout),
            ("server.arrival_timeout", self.arrival_timeout),
            ("server.write_timeout", self.write_timeout),
            ("server.keepalive_interval", self.keepalive_interval),
            ("server.keepalive_timeout", self.keepalive_timeout),
        ];
        for (key, value) in waits {
            bound(problems, key, value, &duration::WAIT);
        }
        let age = self.connection_max_age;
        bound(problems, "server.connection_max_age", age, &MAX_AGE);
        let grace = self.connection_age_grace;
        bound(problems, "server.connection_age_grace", grace, &AGE_GRACE);
        let pause = self.stream_write_timeout;
        bound(problems, "server.stream_write_timeout", pause, &PAUSE);
        require(
            problems,
            self.max_unread_bytes >= UNREAD_BYTES,
            "server.max_unread_bytes",
            "must be at least 16777216",
        );
        let drain = self.drain_timeout;
        bound(problems, "server.drain_timeout", drain, &DRAIN);
    }
}
