//! A Howdah with its metadata behind a proxy, and whether its books are right.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use howdah::pb::v1::{Connection, ListDatabasesRequest};

use super::{
    load::{Caller, INSTANCE, Load},
    met::{Accepted, Met, Outage},
    table::Row,
};
use crate::{
    soak::crash::world::connect,
    support::{
        health::{Health, Prober},
        howdah::{Howdah, instance_name},
        metadata_server::MetadataServer,
        postgres::Server,
    },
};

/// After the end of a fault, work goes on within this time.
const GOES_ON: Duration = Duration::from_secs(10);

pub(super) struct World {
    pub(super) metadata: MetadataServer,
    /// Standbys to whom connections may still lead.
    pub(super) others: Vec<Server>,
    howdah: Howdah,
    /// A database that stays.
    keeper: Connection,
    present: BTreeSet<String>,
    accepted: Vec<Accepted>,
    /// Operations that the table did not ask for.
    before: usize,
    turn: usize,
}

impl World {
    pub(super) async fn new() -> Self {
        let metadata = MetadataServer::start().await;
        let howdah = Howdah::serve(metadata.options()).await;
        howdah.instance(INSTANCE).await;
        let keeper = howdah.database(INSTANCE, "keeper").await;
        Self {
            metadata,
            others: Vec::new(),
            howdah,
            keeper,
            present: BTreeSet::from(["keeper".to_owned()]),
            accepted: Vec::new(),
            before: 2,
            turn: 0,
        }
    }

    /// Runs a row; the answer tells everything that was wrong.
    pub(super) async fn run(&mut self, row: &Row) -> Vec<String> {
        self.turn += 1;
        let load = Load::start(&self.howdah, self.turn).await;
        let met = Arc::clone(&load.met);
        let other = row.fault.prepare(self).await;
        let began = Instant::now();
        row.fault.strike(self, other).await;
        let ended = Instant::now();
        let outage = Outage { began, ended };
        self.goes_on(&met, ended).await;
        self.is_healthy(&met, ended).await;
        self.present.extend(load.stop().await);
        met.judge_health(&outage, row.is_whole());
        row.judge_calls(&met, &outage);
        if !met.has_lost() {
            self.judge_books(&met).await;
        }
        self.others.clear();
        met.faults()
    }

    /// A new mutation and its operation, right after the end.
    async fn goes_on(&mut self, met: &Arc<Met>, ended: Instant) {
        let id = format!("after{}", self.turn);
        let caller = Caller::single(self.howdah.channel().await, Arc::clone(met));
        caller.create_database(&id).await;
        self.present.insert(id);
        let took = ended.elapsed();
        if took > GOES_ON {
            met.wrong(format!(
                "a new mutation took until {took:.1?} after the end"
            ));
        }
    }

    async fn is_healthy(&self, met: &Met, ended: Instant) {
        let prober = Prober::of(&self.howdah).await;
        let limit = crate::support::health::TRUE_WITHIN;
        while prober.ask().await != Health::UP && ended.elapsed() < limit * 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        met.probed(prober.ask().await);
    }

    /// Nothing is lost and nothing doubled.
    async fn judge_books(&mut self, met: &Met) {
        self.accepted.extend(met.accepted());
        self.judge_operations(met).await;
        self.judge_databases(met).await;
        let servers = self.howdah.servers().len();
        if servers != 1 {
            met.wrong(format!("{servers} servers run, not one"));
        }
    }

    async fn judge_operations(&self, met: &Met) {
        let client = self.metadata.client().await;
        let sql = "select r.request_id::text, 'projects/default/operations/' || o.id, o.state
             from operations o left join requests r on r.operation_id = o.id";
        let rows = client.query(sql, &[]).await.unwrap();
        let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for row in &rows {
            if let Some(id) = row.get::<_, Option<String>>(0) {
                let operation = (row.get(1), row.get(2));
                found.entry(id).or_default().push(operation);
            }
        }
        for accepted in &self.accepted {
            let expected = [(accepted.operation.clone(), "SUCCEEDED".to_owned())];
            let found = found.get(&accepted.request_id);
            if found.is_none_or(|found| *found != expected) {
                met.wrong(format!("{accepted:?} is on record as {found:?}"));
            }
        }
        let expected = self.accepted.len() + self.before;
        if rows.len() != expected {
            met.wrong(format!(
                "{} operations are on record, {expected} were asked for",
                rows.len()
            ));
        }
    }

    async fn judge_databases(&self, met: &Met) {
        let client = connect(&self.keeper).await;
        let sql = "select datname::text from pg_database
             where not datistemplate and datname <> 'postgres'";
        let rows = client.query(sql, &[]).await.unwrap();
        let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let told = self.listed().await;
        for (what, set) in [("on the server", &there), ("on record", &told)] {
            let missing: Vec<_> = self.present.difference(set).collect();
            let extra: Vec<_> = set.difference(&self.present).collect();
            if !missing.is_empty() || !extra.is_empty() {
                met.wrong(format!(
                    "databases {what}: {missing:?} missing, {extra:?} extra"
                ));
            }
        }
    }

    async fn listed(&self) -> BTreeSet<String> {
        let mut listed = BTreeSet::new();
        let mut client = self.howdah.databases().await;
        let mut request = ListDatabasesRequest {
            parent: instance_name(INSTANCE),
            ..ListDatabasesRequest::default()
        };
        loop {
            let page = client.list_databases(request.clone()).await.unwrap();
            let page = page.into_inner();
            let id = |name: &str| name.rsplit('/').next().unwrap().to_owned();
            listed.extend(page.databases.iter().map(|found| id(&found.name)));
            if page.next_page_token.is_empty() {
                return listed;
            }
            request.page_token = page.next_page_token;
        }
    }
}
