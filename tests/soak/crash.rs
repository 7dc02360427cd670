//! Every operation is crashed at every point, and ends as if nothing had happened.
//!
//! The table comes from the plans and the providers themselves: an operation that has no
//! scenario fails it, and so does a point that is never passed.

mod embedded;
mod escape;
pub mod picture;
pub mod rows;
pub mod scenario;
mod simulated;
pub mod world;

use std::collections::{HashMap, hash_map::Entry};

use howdah::pb::google::longrunning::Operation;

use self::{
    picture::{Picture, nothing_leaked},
    rows::{Crash, Row},
    scenario::{Act, Scenario},
    world::{World, request_id},
};
use super::{Numbers, deadline, seed};
use crate::support::howdah::instance_name;

/// The table, with a world of each provider, and how each scenario ends by itself.
#[derive(Default)]
pub struct Table {
    worlds: HashMap<&'static str, World>,
    ends: HashMap<(&'static str, usize, bool), Picture>,
}

impl Table {
    /// Runs a row; panics where it fails.
    pub async fn run(&mut self, row: &Row) {
        let provider = row.provider.provider;
        let mut world = match self.worlds.remove(provider) {
            Some(world) => world,
            None => World::of(provider).await,
        };
        let back = matches!(row.crash, Crash::Backward(_));
        let place = std::ptr::from_ref(row.scenario).addr();
        if let Entry::Vacant(first) = self.ends.entry((provider, place, back)) {
            let quiet = match back {
                true => Crash::Backward(Vec::new()),
                false => Crash::None,
            };
            let end = run(&mut world, row.scenario, &quiet).await;
            first.insert(end);
        }
        let end = run(&mut world, row.scenario, &row.crash).await;
        assert_eq!(self.ends[&(provider, place, back)], end, "{}", row.name());
        // Only a world in which all went well is used again.
        self.worlds.insert(provider, world);
    }
}

async fn run(world: &mut World, scenario: &Scenario, crash: &Crash) -> Picture {
    let mut subject = world.subject();
    for act in scenario.acts(world.provider()) {
        world.prepare(&mut subject, act).await;
    }
    let target = match scenario.trigger {
        Act::CreateShop | Act::DeleteShop => {
            format!("{}/databases/shop", instance_name(&subject.id))
        }
        Act::CreateStream | Act::DeleteStream => {
            format!("{}/changeStreams/audit", instance_name(&subject.id))
        }
        _ => instance_name(&subject.id),
    };
    let ask_again = request_id();
    let first = match crash {
        Crash::None => None,
        Crash::Forward(point) | Crash::Again(point) => Some(point.clone()),
        Crash::Backward(_) => Some(scenario.last_commit()),
    };
    if let Some(point) = &first {
        world.howdah.stop().await;
        if point.starts_with("local.template.") {
            world.forget_templates();
        }
        world.howdah.start(&format!("{point}=return")).await;
    }
    if scenario.trigger == Act::KillServer {
        world.kill_server();
    } else {
        // The answer may have been lost with the process.
        let _ = world.ask(&subject, scenario.trigger, &ask_again).await;
    }
    if first.is_some() {
        world.died().await;
    }
    match crash {
        Crash::None => {}
        Crash::Forward(_) => world.howdah.start("").await,
        Crash::Again(point) => {
            world.howdah.spawn(&format!("{point}=return"));
            world.died().await;
            world.howdah.start("").await;
        }
        Crash::Backward(points) => {
            // As another replica would write it down.
            let cancel = "update operations set cancel_requested = true where end_time is null";
            assert_eq!(world.metadata.execute(cancel, &[]).await.unwrap(), 1);
            for point in points {
                world.howdah.spawn(&format!("{point}=return"));
                world.died().await;
            }
            world.howdah.start("").await;
        }
    }
    let operation: Operation = match scenario.trigger {
        Act::KillServer => world.find_operation(scenario.kind, &target).await,
        act => world.ask(&subject, act, &ask_again).await.unwrap(),
    };
    let operation = world.howdah.wait(&operation).await;
    let end = Picture::take(world, &subject, &operation).await;
    world.clean_up(&subject).await;
    nothing_leaked(world, None, false).await;
    end
}

#[tokio::test(flavor = "multi_thread")]
async fn table() {
    let only = std::env::var("HOWDAH_SOAK_ONLY").unwrap_or_default();
    let rows: Vec<Row> = rows::all()
        .into_iter()
        .filter(|row| row.name().contains(&only))
        .collect();
    let end = deadline();
    let from = end.map_or(0, |_| Numbers(seed()).below(rows.len()));
    let (mut done, mut failed) = (0, Vec::new());
    let mut table = Table::default();
    for row in rows.iter().cycle().skip(from).take(rows.len()) {
        if end.is_some_and(|end| std::time::Instant::now() >= end) {
            break;
        }
        let begin = std::time::Instant::now();
        let name = row.name();
        let (mut lent, row) = (std::mem::take(&mut table), row.clone());
        let ran = tokio::spawn(async move {
            lent.run(&row).await;
            lent
        });
        match ran.await {
            Ok(back) => table = back,
            Err(_) => failed.push(name.clone()),
        }
        done += 1;
        eprintln!("{:>6.1?} {name}", begin.elapsed());
    }
    eprintln!(
        "crash table: {done} of {} rows, {} failed",
        rows.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:#?}");
}
