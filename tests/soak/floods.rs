//! Floods of one caller against the real program: what they cost, what is left after them,
//! and how somebody else is served meanwhile.

mod attacks;
mod bystander;
mod vitals;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use howdah::pb::v1::Instance;
use tokio::task::JoinSet;

use self::{
    attacks::{ATTACKS, Attack},
    bystander::Bystander,
    vitals::Vitals,
};
use super::{Numbers, deadline, seed};
use crate::{
    service::{SimulatedWorld, counter},
    support::{
        health::{Health, Prober},
        howdah::{Howdah, create_instance, eventually},
    },
};

/// A flood lasts at least so long. Without a bound from outside it lasts twice as long.
const SHORTEST: Duration = Duration::from_secs(1);

/// Calls of the bystander that make a figure.
const CALLS: usize = 50;

/// What one caller can pin by the default limits is 32 MiB of requests that are on their
/// way and 128 MiB of answers that it does not read. The rest is for its 512 connections,
/// with their windows and queues, and what the allocator keeps.
const DURING: u64 = 384 << 20;

/// The allocator keeps pages of what was freed, once, and at most as much as was pinned. The
/// value before is that before the first flood: what each flood leaves would add up.
const AFTER: u64 = 160 << 20;

/// Connections to the metadata come and go by themselves, 10 of the pool and two beside.
const HANDLES: usize = 12;

/// Of the answers that readers leave lying: a page of a list has 3 MiB.
const LARGE: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn table() {
    let end = deadline();
    let first = Numbers(seed()).below(ATTACKS.len());
    let world = SimulatedWorld::new(&[]);
    world.is(&serde_json::json!({}));
    let options = world.options().await;
    let howdah = Howdah::serve(options.with("HOWDAH_LOG_FILTER", "warn")).await;
    howdah.instance("orders").await;
    large_instances(&howdah).await;
    let rows = u32::try_from(ATTACKS.len()).unwrap();
    let share = end.map_or(SHORTEST * 2, |end| (end - Instant::now()) / rows / 3);
    let flood = Flood {
        howdah: &howdah,
        length: share.max(SHORTEST),
        bystander: Bystander::start(&howdah),
        calm: Vitals::of(&howdah),
    };
    eprintln!("{:<42} {}", "flood", Row::HEADER);
    let mut done = 0;
    for attack in ATTACKS.iter().cycle().skip(first).take(ATTACKS.len()) {
        flood.row(attack).await;
        done += 1;
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
    }
    eprintln!("floods: {done} of {rows} rows, from number {first}");
    assert_eq!(Prober::of(&howdah).await.ask().await, Health::UP);
    assert_eq!(counter(&howdah, "howdah_panics_total").await, 0);
}

/// Makes pages of lists as large as they may be.
async fn large_instances(howdah: &Howdah) {
    let text = |key| (format!("k{key}"), "x".repeat(4096));
    for number in 0..LARGE {
        let instance = Instance {
            annotations: (0..60).map(text).collect(),
            ..Instance::default()
        };
        let request = create_instance(&format!("large-{number}"), instance);
        let accepted = howdah.instances().await.create_instance(request).await;
        howdah.wait(accepted.unwrap().get_ref()).await;
    }
}

struct Flood<'a> {
    howdah: &'a Howdah,
    length: Duration,
    bystander: Bystander,
    /// Before the first flood.
    calm: Vitals,
}

/// The figures of one moment: resident memory, handles, and the bystander's 99th percentile.
type Moment = (Vitals, Duration);

struct Row {
    before: Moment,
    during: Moment,
    after: Moment,
}

impl Flood<'_> {
    async fn row(&self, attack: &Attack) {
        let before = self.moment().await;
        let victim = Victim {
            api: self.howdah.endpoint().parse().unwrap(),
            admin: self.howdah.admin_endpoint().parse().unwrap(),
        };
        let mut attackers = JoinSet::new();
        for _ in 0..attack.attackers {
            attackers.spawn((attack.run)(victim));
        }
        // The most of it, as it grows.
        let (mut most, begin) = (Vitals::of(self.howdah), Instant::now());
        self.bystander.forget();
        while begin.elapsed() < self.length || !self.bystander.has_called(CALLS) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            most = most.max(Vitals::of(self.howdah));
        }
        let during = (most, self.bystander.slowest());
        // An attacker that panics has found nothing out.
        while let Some(ended) = attackers.try_join_next() {
            ended.unwrap();
        }
        attackers.shutdown().await;
        let handles = self.calm.handles + HANDLES;
        eventually("handles and memory come back", async || {
            let now = Vitals::of(self.howdah);
            now.handles <= handles && now.resident <= self.calm.resident + AFTER
        })
        .await;
        let after = self.moment().await;
        let row = Row {
            before,
            during,
            after,
        };
        eprintln!("{:<42} {row}", attack.name);
        let most = self.calm.resident + DURING;
        assert!(during.0.resident <= most, "{}: {:?}", attack.name, during.0);
    }

    /// The figures while nothing is attacked.
    async fn moment(&self) -> Moment {
        self.bystander.forget();
        while !self.bystander.has_called(CALLS) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (Vitals::of(self.howdah), self.bystander.slowest())
    }
}

impl Row {
    const HEADER: &str = "resident MiB, handles, bystander's p99: before | during | after";
}

impl std::fmt::Display for Row {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let moments = [&self.before, &self.during, &self.after].map(|(vitals, slowest)| {
            let resident = vitals.resident >> 20;
            format!("{resident:>5} {:>5} {:>9.1?}", vitals.handles, slowest)
        });
        formatter.write_str(&moments.join(" | "))
    }
}

/// Where to.
#[derive(Clone, Copy)]
struct Victim {
    api: SocketAddr,
    admin: SocketAddr,
}
