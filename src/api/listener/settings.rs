//! Settings of the listener, with what each of them costs.

use std::time::Duration;

use ipnet::IpNet;

use crate::accept::Tls;

/// Bytes that a client may send on one call before they are read. It limits the memory of a call
/// and, with the round-trip time, its speed: at 50 ms, 5 MB/s.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// Limits and times of connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TLS; none for plain text.
    pub tls: Option<Tls>,
    /// Most connections at once. An idle one costs a file descriptor and about 50 KiB. One above
    /// the limit is closed at once.
    pub max_connections: usize,
    /// Most connections at once from one IPv4 address or one IPv6 /64. One above the limit is
    /// closed at once.
    pub max_connections_per_address: usize,
    /// Networks of proxies. Many callers share the address of a proxy, so these addresses have
    /// no limits of their own.
    pub proxies: Vec<IpNet>,
    /// Longest time for the TLS handshake, and for the HTTP/2 preface. Until then a connection
    /// counts as open, and its caller is unknown.
    pub handshake_timeout: Duration,
    /// Age at which a connection gets GOAWAY, plus up to a tenth. So clients move to replicas
    /// that were started later. None: no limit.
    pub max_age: Option<Duration>,
    /// How long the calls of a connection may continue after GOAWAY. None: without a limit.
    pub age_grace: Option<Duration>,
    /// How long calls may continue on a connection whose client certificate has expired or is
    /// not accepted any more.
    pub certificate_grace: Duration,
    /// How long a client may leave a response or the socket unread. After that the call is reset
    /// or the connection closed.
    pub write_timeout: Duration,
    /// How long a client may leave a message of a stream unread. After that the stream is reset.
    pub stream_write_timeout: Duration,
    /// How often a connection is pinged. It detects dead peers, and keeps proxies from closing
    /// the connection as idle.
    pub keepalive_interval: Duration,
    /// Longest wait for the reply to a ping. After that the connection is closed.
    pub keepalive_timeout: Duration,
    /// Bytes that a client may send on all calls of a connection before they are read. The limit
    /// of one call is [`STREAM_WINDOW`].
    pub connection_window: u32,
    /// Most calls at once on one connection.
    pub max_concurrent_streams: u32,
    /// Most bytes of a call's headers, by their size in HPACK. HTTP/2 responds with 431 above
    /// this. The protocol layer refuses headers above a quarter of it, with a gRPC status.
    pub max_header_list_size: u32,
    /// Bytes of one call's response that may wait for the socket, in addition to those counted
    /// as unread.
    pub max_send_buffer: usize,
    /// Calls that a client may send and cancel before they are handled. Above this the
    /// connection ends with ENHANCE_YOUR_CALM. A proxy that loses many clients cancels all their
    /// calls at once.
    pub max_pending_resets: usize,
    /// Calls of one connection, over its whole life, that may violate HTTP/2.
    pub max_local_resets: usize,
    /// How long, at a shutdown, an idle connection has time to reply to the GOAWAY, and a
    /// connection whose calls were ended has time to read their responses.
    pub farewell: Duration,
    /// How long a shutdown waits for running calls.
    pub drain_timeout: Duration,
    /// How often the TLS files are checked for changes.
    pub reload_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tls: None,
            max_connections: 4096,
            max_connections_per_address: 2048,
            proxies: Vec::new(),
            handshake_timeout: Duration::from_secs(10),
            max_age: Some(Duration::from_secs(3600)),
            age_grace: Some(Duration::from_secs(3600)),
            certificate_grace: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            stream_write_timeout: Duration::from_secs(600),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            connection_window: 1024 * 1024,
            max_concurrent_streams: 256,
            max_header_list_size: 64 * 1024,
            max_send_buffer: 64 * 1024,
            max_pending_resets: 1024,
            max_local_resets: 10_000,
            farewell: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(10),
            reload_interval: Duration::from_secs(5),
        }
    }
}
