//! The progress that is reported to the server (standby status updates), and when.
//!
//! A walsender that is being shut down waits until the client has flushed everything; or has
//! written everything, if the last message says 0 for flush. If each message repeated the flush
//! position, the server's shutdown would wait for the subscriber's acknowledgement. So a message
//! has the flush position only when it has risen, and 0 otherwise.

use std::time::Duration;

use tokio::time::Instant;

use crate::pg::Lsn;

/// The progress of one stream.
#[derive(Debug)]
pub(super) struct Feedback {
    received: Lsn,
    acknowledged: Lsn,
    confirmed: Lsn,
    // The server's clock when it last sent something, and our clock at that time.
    clock: Option<(i64, Instant)>,
}

impl Feedback {
    pub(super) fn new() -> Self {
        Feedback {
            received: Lsn::ZERO,
            acknowledged: Lsn::ZERO,
            confirmed: Lsn::ZERO,
            clock: None,
        }
    }

    /// Records what has arrived, up to `lsn`, sent at `server_time`.
    pub(super) fn receive(&mut self, lsn: Lsn, server_time: i64, now: Instant) {
        self.received = self.received.max(lsn);
        self.clock = Some((server_time, now));
    }

    /// Records that the consumer does not need anything up to `lsn` any more.
    pub(super) fn acknowledge(&mut self, lsn: Lsn) {
        self.acknowledged = self.acknowledged.max(lsn);
    }

    pub(super) fn received(&self) -> Lsn {
        self.received
    }

    pub(super) fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// Whether the next message would raise the slot's confirmed position. The server does not
    /// check it, so it never exceeds what was received.
    pub(super) fn rises(&self) -> bool {
        self.acknowledged.min(self.received) > self.confirmed
    }

    /// A standby status update, as a CopyData message.
    pub(super) fn message(&mut self, now: Instant) -> [u8; 39] {
        let flush = match self.rises() {
            true => {
                self.confirmed = self.acknowledged.min(self.received);
                self.confirmed
            }
            false => Lsn::ZERO,
        };
        // The server's own clock plus the time since then: our clock may be wrong. Only people
        // read it (`reply_time`).
        let time = self.clock.map_or(0, |(server, at)| {
            server.saturating_add(micros(now.saturating_duration_since(at)))
        });
        let mut out = [0; 39];
        let fields = [&b"d"[..], &38u32.to_be_bytes(), b"r"];
        let numbers = [
            self.received.get(),
            flush.get(),
            Lsn::ZERO.get(),
            time.cast_unsigned(),
        ]
        .map(u64::to_be_bytes);
        let bytes = fields
            .into_iter()
            .chain(numbers.iter().map(|n| &n[..]))
            .flatten();
        // The last byte stays 0: no reply is asked for.
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
        out
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(message: [u8; 39]) -> (u64, u64, u64, i64) {
        assert_eq!(&message[..6], b"d\0\0\0\x26r");
        assert_eq!(message[38], 0);
        let at = |i: usize| u64::from_be_bytes(message[i..i + 8].try_into().unwrap());
        (at(6), at(14), at(22), at(30).cast_signed())
    }

    #[test]
    fn flush_is_said_once() {
        let now = Instant::now();
        let mut feedback = Feedback::new();
        feedback.receive(Lsn::new(100), 5, now);
        assert_eq!(fields(feedback.message(now)), (100, 0, 0, 5));
        feedback.acknowledge(Lsn::new(60));
        let later = now + Duration::from_micros(7);
        assert_eq!(fields(feedback.message(later)), (100, 60, 0, 12));
        assert_eq!(fields(feedback.message(now)), (100, 0, 0, 5));
    }

    proptest! {
        #[test]
        fn flush_only_rises_and_never_exceeds_what_was_received(
            steps in prop::collection::vec((0u8..3, 0u64..1000), 0..60)
        ) {
            let now = Instant::now();
            let mut feedback = Feedback::new();
            let (mut received, mut acknowledged, mut last) = (0, 0, 0);
            for (what, lsn) in steps {
                match what {
                    0 => {
                        feedback.receive(Lsn::new(lsn), 0, now);
                        received = received.max(lsn);
                    }
                    1 => {
                        feedback.acknowledge(Lsn::new(lsn));
                        acknowledged = acknowledged.max(lsn);
                    }
                    _ => {
                        let (write, flush, apply, _) = fields(feedback.message(now));
                        prop_assert_eq!((write, apply), (received, 0));
                        let due = acknowledged.min(received);
                        prop_assert_eq!(flush, if due > last { due } else { 0 });
                        last = last.max(flush);
                        prop_assert_eq!(feedback.confirmed(), Lsn::new(last));
                    }
                }
            }
        }
    }
}
