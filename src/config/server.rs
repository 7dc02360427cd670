//! Limits of the gRPC listener.

use std::{ops::RangeInclusive, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Problem, duration,
    problem::{bound, require},
};

/// Smallest and largest `max_message_bytes`.
const MESSAGE_BYTES: RangeInclusive<usize> = 64 * 1024..=64 * 1024 * 1024;

/// Bounds of `connection_max_age`.
const MAX_AGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);

/// Bounds of `drain_timeout`.
const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=duration::HOUR;

/// Limits of the gRPC listener.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Most open connections; the next one is closed at once.
    pub max_connections: usize,
    /// Most streams at once on a connection; the client queues what is above.
    pub max_concurrent_streams: u32,
    /// Most calls that wait for their answer at once; the next is refused as OVERLOADED.
    pub max_in_flight: usize,
    /// Largest request message in bytes.
    pub max_message_bytes: usize,
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
            max_concurrent_streams: 256,
            max_in_flight: 512,
            max_message_bytes: 4 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            connection_max_age: Duration::from_secs(30 * 60),
            drain_timeout: Duration::from_secs(25),
            rate_limit_per_second: 0,
        }
    }
}

impl Server {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let positive = [
            ("server.max_connections", self.max_connections > 0),
            (
                "server.max_concurrent_streams",
                self.max_concurrent_streams > 0,
            ),
            ("server.max_in_flight", self.max_in_flight > 0),
        ];
        for (key, holds) in positive {
            require(problems, holds, key, "must be more than 0");
        }
        require(
            problems,
            MESSAGE_BYTES.contains(&self.max_message_bytes),
            "server.max_message_bytes",
            "must be 65536 to 67108864",
        );
        let waits = [
            ("server.request_timeout", self.request_timeout),
            ("server.keepalive_interval", self.keepalive_interval),
            ("server.keepalive_timeout", self.keepalive_timeout),
        ];
        for (key, value) in waits {
            bound(problems, key, value, &duration::WAIT);
        }
        let age = self.connection_max_age;
        bound(problems, "server.connection_max_age", age, &MAX_AGE);
        let drain = self.drain_timeout;
        bound(problems, "server.drain_timeout", drain, &DRAIN);
    }
}
