//! What can be set about the listener, with the physics of each knob.

use std::time::Duration;

use ipnet::IpNet;

use crate::accept::Tls;

/// Bytes that a client may send on one call before they are read. Bounds the memory of a
/// call and, by the round-trip time, its speed: at 50 ms, 5 MB/s.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// Bounds and timing of connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TLS, or plain text.
    pub tls: Option<Tls>,
    /// Connections at once. Each costs a file descriptor and some 50 KiB when idle;
    /// one over the bound is closed at once.
    pub max_connections: usize,
    /// Connections at once from one address, or from one /64 network of IPv6. One over
    /// the bound is closed at once.
    pub max_connections_per_address: usize,
    /// Networks of proxies, from which many callers come by one address: their addresses
    /// have no bounds of their own.
    pub proxies: Vec<IpNet>,
    /// Longest time for the TLS handshake and the HTTP/2 preface, each. Until then a
    /// connection counts as open and its caller is unknown.
    pub handshake_timeout: Duration,
    /// After this time, plus up to a tenth, a connection is told to go, so that
    /// clients spread over replicas that came later. None: never.
    pub max_age: Option<Duration>,
    /// How long calls of a connection that was told to go may still last. None:
    /// as long as they like.
    pub age_grace: Option<Duration>,
    /// How long calls may still last on a connection whose client certificate has expired
    /// or is not accepted any more.
    pub certificate_grace: Duration,
    /// How long a client may leave an answer unread, and the socket full; then the call is
    /// reset, or the connection closed.
    pub write_timeout: Duration,
    /// How long a client may leave a message of a stream unread; then the stream is reset.
    pub stream_write_timeout: Duration,
    /// A connection is pinged this often, so that a dead peer is found and proxies do
    /// not take it for idle.
    pub keepalive_interval: Duration,
    /// A ping that is not answered in this time ends the connection.
    pub keepalive_timeout: Duration,
    /// Bytes that a client may send on all calls of a connection before they are read;
    /// on one call [`STREAM_WINDOW`].
    pub connection_window: u32,
    /// Calls at once on one connection.
    pub max_concurrent_streams: u32,
    /// Size of a call's headers in bytes, as HPACK counts them, above which HTTP/2 answers
    /// 431. The protocol layer refuses a quarter of it already, with a status of gRPC.
    pub max_header_list_size: u32,
    /// Bytes of one call's answer that may wait for the socket, beyond what was counted
    /// as unread.
    pub max_send_buffer: usize,
    /// Calls that a client may send and cancel before they are looked at; above, the
    /// connection ends with ENHANCE_YOUR_CALM. A proxy that loses many clients cancels
    /// all of their calls at once.
    pub max_pending_resets: usize,
    /// Calls of one connection, over its whole life, that break the rules of HTTP/2.
    pub max_local_resets: usize,
    /// How long a connection without calls has at a shutdown to answer that it goes, and
    /// one whose calls were ended to take their answers.
    pub farewell: Duration,
    /// How long a shutdown waits for calls under way.
    pub drain_timeout: Duration,
    /// How often the TLS files are looked at.
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
