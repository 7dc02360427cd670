//! The table of faults between Howdah and its metadata.

use std::time::{Duration, Instant};

use super::{
    met::{Met, Outage},
    world::World,
};
use crate::support::postgres::Server;

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(super) fault: Fault,
    /// What becomes of calls while it lasts.
    calls: Calls,
    /// Whether it is run with every run of the tests.
    pub(crate) quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    /// They are answered.
    Answered,
    /// Some are refused, or end at their deadline.
    Refused,
    /// Either.
    Any,
}

/// What is done to the way to the metadata, or to their server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Delay {
        by: Duration,
        lasting: Duration,
    },
    /// Silence without a RST; what was sent meanwhile is lost.
    Lose(Duration),
    /// The same, and what was sent arrives in the end.
    Hold(Duration),
    /// Most of the time.
    Silences,
    Cut,
    /// Again and again.
    Cuts(Duration),
    Refuse(Duration),
    /// Connections end in the middle of a message.
    Halves,
    /// A failover that is taken back: for a while the address is a standby's. Connections
    /// to it stay open afterwards.
    ReadOnly(Duration),
    /// The standby becomes the primary.
    Promotion,
    Restart,
    /// The server's processes stand still.
    Frozen(Duration),
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn row(name: &'static str, fault: Fault, calls: Calls, quick: bool) -> Row {
    Row {
        name,
        fault,
        calls,
        quick,
    }
}

const SHORT_DELAY: Fault = Fault::Delay {
    by: Duration::from_millis(200),
    lasting: s(4),
};
const LONG_DELAY: Fault = Fault::Delay {
    by: s(2),
    lasting: s(10),
};

pub(crate) const ROWS: &[Row] = &[
    row("delay of 200 ms", SHORT_DELAY, Calls::Answered, true),
    row("delay of 2 s", LONG_DELAY, Calls::Refused, false),
    row("silence, lost", Fault::Lose(s(20)), Calls::Refused, true),
    // Shorter than the server waits for the rest of a transaction.
    row(
        "short silence, lost",
        Fault::Lose(s(6)),
        Calls::Refused,
        false,
    ),
    row(
        "silence again and again",
        Fault::Silences,
        Calls::Any,
        false,
    ),
    row("silence, held", Fault::Hold(s(20)), Calls::Refused, false),
    row("cut", Fault::Cut, Calls::Any, true),
    row("cut for 5 s", Fault::Cuts(s(5)), Calls::Any, false),
    row(
        "refused for 8 s",
        Fault::Refuse(s(8)),
        Calls::Refused,
        false,
    ),
    row(
        "refused for 20 s",
        Fault::Refuse(s(20)),
        Calls::Refused,
        false,
    ),
    row("half messages", Fault::Halves, Calls::Any, true),
    row(
        "read-only for 3 s",
        Fault::ReadOnly(s(3)),
        Calls::Refused,
        true,
    ),
    row("promotion", Fault::Promotion, Calls::Any, false),
    row("restart", Fault::Restart, Calls::Any, true),
    row(
        "frozen for 15 s",
        Fault::Frozen(s(15)),
        Calls::Refused,
        false,
    ),
];

impl Row {
    /// Whether no call can be answered while it lasts.
    pub(super) fn is_whole(&self) -> bool {
        self.calls == Calls::Refused
    }

    /// Sees that the fault was one, or was none for callers.
    pub(super) fn judge_calls(&self, met: &Met, outage: &Outage) {
        let (answered, refused) = met.calls_in(outage);
        match self.calls {
            Calls::Answered if answered == 0 => {
                met.wrong(format!("no call was answered, {refused} were refused"));
            }
            Calls::Refused if refused == 0 => {
                met.wrong(format!("no call was refused, {answered} were answered"));
            }
            _ => {}
        }
    }
}

impl Fault {
    /// Makes the other server that it needs.
    pub(super) async fn prepare(self, world: &World) -> Option<Server> {
        let primary = &world.metadata.server;
        if !matches!(self, Self::ReadOnly(_) | Self::Promotion) {
            return None;
        }
        let standby = tokio::task::block_in_place(|| primary.standby());
        if matches!(self, Self::Promotion) {
            primary.wait_for_standby().await;
        }
        Some(standby)
    }

    /// Returns when it is over.
    pub(super) async fn strike(self, world: &mut World, other: Option<Server>) {
        let (server, proxy) = (&world.metadata.server, &mut world.metadata.proxy);
        match self {
            Self::Delay { by, lasting } => {
                proxy.delay(by);
                lasts(lasting).await;
            }
            Self::Lose(lasting) => {
                proxy.lose();
                lasts(lasting).await;
            }
            Self::Hold(lasting) => {
                proxy.hold();
                lasts(lasting).await;
            }
            Self::Silences => {
                for _ in 0..4 {
                    proxy.hold();
                    lasts(s(3)).await;
                    proxy.pass();
                    lasts(s(1)).await;
                }
            }
            Self::Cut => proxy.cut(),
            Self::Cuts(lasting) => {
                let end = Instant::now() + lasting;
                while Instant::now() < end {
                    proxy.cut();
                    lasts(Duration::from_millis(250)).await;
                }
            }
            Self::Refuse(lasting) => {
                proxy.refuse().await;
                lasts(lasting).await;
            }
            Self::Halves => {
                for bytes in [1, 3, 7, 30, 100, 400, 1000, 3000] {
                    proxy.half(bytes);
                    lasts(Duration::from_millis(500)).await;
                }
            }
            Self::ReadOnly(lasting) => {
                let standby = other.unwrap();
                proxy.upstream(standby.port);
                proxy.cut();
                lasts(lasting).await;
                proxy.upstream(server.port);
                world.others.push(standby);
            }
            Self::Promotion => {
                let standby = other.unwrap();
                proxy.upstream(standby.port);
                proxy.cut();
                standby.promote().await;
                world.metadata.server = standby;
            }
            Self::Restart => {
                tokio::task::block_in_place(|| server.control(&["restart", "-m", "fast"]));
            }
            Self::Frozen(lasting) => {
                let frozen = server.freeze();
                lasts(lasting).await;
                drop(frozen);
            }
        }
        world.metadata.proxy.pass();
    }
}

/// A fault lasts as long as it does, whatever the program makes of it.
async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Runs rows one after the other, in one world as long as all goes well.
#[derive(Default)]
pub(crate) struct Table {
    world: Option<World>,
    failed: Vec<String>,
    done: usize,
}

impl Table {
    pub(crate) async fn run(&mut self, row: &'static Row) {
        let began = Instant::now();
        let lent = self.world.take();
        // A panic of a row is a failure of that row.
        let ran = tokio::spawn(async move {
            let mut world = match lent {
                Some(world) => world,
                None => World::new().await,
            };
            let faults = world.run(row).await;
            (world, faults)
        });
        match ran.await {
            Ok((world, faults)) if faults.is_empty() => self.world = Some(world),
            Ok((_, faults)) => self.failed.push(format!("{}: {faults:#?}", row.name)),
            Err(_) => self.failed.push(format!("{}: it panicked", row.name)),
        }
        self.done += 1;
        let took = began.elapsed();
        eprintln!("{took:>6.1?} {}", row.name);
    }

    /// Fails if a row did.
    pub(crate) fn finish(self) {
        let Self { failed, done, .. } = self;
        eprintln!(
            "metadata table: {done} of {} rows, {} failed",
            ROWS.len(),
            failed.len()
        );
        assert!(done > 0);
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}
