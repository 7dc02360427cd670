//! Tables with publications of our own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Log, State};
use crate::{
    domain::{Error, Reason, Result, postgres::TableName},
    pb::v1::marker::Kind,
    pg::Lsn,
    streams::{
        OnChange, Publish, Request, Source,
        catalog::{self, Encoding, Storage, Table},
        note::{End, Note, Root, Seen},
        preflight::Database,
        publication::{self, LOCK_TIMEOUT, Numbered, Wanted},
        session::Session,
    },
};

/// A table of the request.
#[derive(Clone, Debug)]
struct Followed {
    number: usize,
    asked: TableName,
    oid: u32,
    /// As it was at the last look.
    table: Table,
    /// Whether it was dropped.
    gone: bool,
    /// Where the log ended when it was last there.
    seen: Lsn,
}

/// The watch over tables.
#[derive(Debug)]
pub(super) struct Tables {
    prefix: String,
    publish: Publish,
    on_change: OnChange,
    encoding: Encoding,
    followed: Vec<Followed>,
    /// What the publications publish now.
    current: Vec<Wanted>,
    /// Markers that follow a change of the publications that was not possible yet.
    later: Vec<Seen>,
}

impl Tables {
    pub(super) fn new(source: &Source, request: &Request, database: &Database) -> Self {
        let numbered = publication::numbered(database);
        let followed = numbered.iter().filter_map(|it| {
            Some(Followed {
                number: it.number,
                asked: request.tables.get(it.number)?.clone(),
                oid: it.oid,
                table: it.table?.clone(),
                gone: false,
                seen: Lsn::ZERO,
            })
        });
        Self {
            prefix: source.slot.clone(),
            publish: request.publish,
            on_change: request.on_change,
            encoding: database.encoding,
            followed: followed.collect(),
            current: publication::wanted(&source.slot, &numbered, request.publish),
            later: Vec::new(),
        }
    }

    /// Of a change stream: by what its publications hold. A table that was replaced while nobody
    /// watched is found at the first look.
    pub(super) async fn resume(
        session: &mut Session,
        source: &Source,
        request: &Request,
        encoding: Encoding,
    ) -> Result<Self> {
        let current = publication::current(session, &source.slot).await?;
        let named = catalog::oids(session, &request.tables).await?;
        let mut oids: BTreeSet<u32> = named.iter().flatten().copied().collect();
        oids.extend(current.iter().flat_map(|it| it.tables.iter().copied()));
        let oids: Vec<u32> = oids.into_iter().collect();
        let tables = catalog::tables(session, encoding, &oids).await?;
        let mut followed = Vec::new();
        for (number, (asked, named)) in request.tables.iter().zip(named).enumerate() {
            let name = format!("{}_{number}", source.slot);
            let members = members(&current, &name);
            let of_it = |oid: &u32| {
                let table = tables.get(oid);
                members.contains(oid)
                    || table.is_some_and(|it| it.leaves.keys().any(|leaf| members.contains(leaf)))
            };
            let former = members.iter().find(|oid| tables.contains_key(oid));
            let oid = named.filter(of_it).or(former.copied());
            // One that was dropped has left its publication.
            let Some(table) = oid.or(named).and_then(|oid| tables.get(&oid)) else {
                let message = format!("the table {asked} was dropped");
                return Err(
                    Error::new(Reason::TableReplaced, message).with_resource(asked.to_string())
                );
            };
            followed.push(Followed {
                number,
                asked: asked.clone(),
                oid: oid.unwrap_or_default(),
                table: table.clone(),
                gone: oid.is_none(),
                seen: Lsn::ZERO,
            });
        }
        let partitions: BTreeSet<u32> = followed
            .iter()
            .flat_map(|it| it.table.leaves.keys().copied())
            .collect();
        followed.retain(|it| !partitions.contains(&it.oid));
        Ok(Self {
            prefix: source.slot.clone(),
            publish: request.publish,
            on_change: request.on_change,
            encoding,
            followed,
            current,
            later: Vec::new(),
        })
    }

    /// What the pump has to know at first.
    pub(super) fn begin(&self, state: &mut State) {
        state.published = self.published_now();
        state.followed = self.followed.iter().map(|it| it.oid).collect();
        state.roots = self.followed.iter().flat_map(Followed::roots).collect();
    }

    /// What the publications publish of each table and partition.
    fn published_now(&self) -> HashMap<u32, bool> {
        let of = |oid: u32, root: u32| {
            let mut current = self.current.iter();
            let found = current.find(|it| it.tables.contains(&oid) || it.tables.contains(&root));
            found.is_some_and(|it| it.all)
        };
        let tables = self.followed.iter().flat_map(|followed| {
            let leaves = followed.table.leaves.keys();
            let leaves = leaves.map(|leaf| (*leaf, of(*leaf, followed.oid)));
            let all = leaves.clone().all(|(_, all)| all);
            let own = match followed.table.partitioned {
                true => all && followed.table.identified(),
                false => of(followed.oid, followed.oid),
            };
            leaves.chain([(followed.oid, own)]).collect::<Vec<_>>()
        });
        tables.collect()
    }

    pub(super) async fn look(&mut self, log: &mut Log<'_>) -> Result<()> {
        let names: Vec<TableName> = self.followed.iter().map(|it| it.asked.clone()).collect();
        let named = catalog::oids(log.session, &names).await?;
        let oids = self.followed.iter().map(|it| it.oid);
        let oids: BTreeSet<u32> = oids.chain(named.iter().flatten().copied()).collect();
        let oids: Vec<u32> = oids.into_iter().collect();
        let tables = catalog::tables(log.session, self.encoding, &oids).await?;
        log.now = log.position().await?;
        let (mut next, mut note) = (self.followed.clone(), Note::default());
        let look = Look {
            tables: &tables,
            begun: log.begun,
            now: log.now,
            on_change: self.on_change,
        };
        for (followed, named) in next.iter_mut().zip(named) {
            look.compare(followed, named, &mut note);
        }
        // Also when the stream has to end: the subscriber may not read on for minutes.
        let ended = log.shared.state.lock().await.end.is_some();
        if ended || note.end.is_some() {
            self.protect(&next, log).await?;
            return match ended {
                true => Ok(()),
                false => log.write(&[], &note).await,
            };
        }
        let before = log.shared.state.lock().await.published.clone();
        self.protect(&next, log).await?;
        self.tell(&next, &mut note, log).await?;
        self.apply(next, note, before, log).await
    }

    /// Writes what needs no lock at once: what holds one table up must not hold up the others.
    async fn tell(&mut self, next: &[Followed], note: &mut Note, log: &mut Log<'_>) -> Result<()> {
        let attached = i32::from(Kind::PartitionsAttached);
        let markers = std::mem::take(&mut note.markers).into_iter();
        let (replaced, markers): (Vec<Seen>, Vec<Seen>) =
            markers.partition(|it| it.relation_oid != 0);
        // A new partition may have to be published first.
        let (later, now): (Vec<Seen>, Vec<Seen>) =
            markers.into_iter().partition(|it| it.kind == attached);
        self.later.extend(later);
        note.markers = replaced;
        note.markers.extend(self.later.iter().cloned());
        let at_once = Note {
            markers: now,
            roots: self.roots(next),
            ..Note::default()
        };
        if !at_once.is_empty() {
            log.write(&[], &at_once).await?;
        }
        for (followed, next) in self.followed.iter_mut().zip(next) {
            if followed.oid == next.oid {
                followed.clone_from(next);
            }
        }
        Ok(())
    }

    /// Partitions that came, or whose table was renamed.
    fn roots(&self, next: &[Followed]) -> Vec<(u32, Root)> {
        let pairs = self.followed.iter().zip(next);
        let changed = pairs.filter(|(was, is)| {
            was.oid != is.oid
                || was.table.leaves.len() != is.table.leaves.len()
                || was.table.leaves.keys().ne(is.table.leaves.keys())
                || (&was.table.namespace, &was.table.name) != (&is.table.namespace, &is.table.name)
        });
        changed.flat_map(|(_, is)| is.roots()).collect()
    }

    /// Takes tables out of what publishes their updates at once, without a lock on them: the
    /// application's updates of a table without replica identity fail until then.
    async fn protect(&mut self, next: &[Followed], log: &mut Log<'_>) -> Result<()> {
        let stores: Vec<Store> = next.iter().flat_map(Followed::stores).collect();
        for publication in self.current.iter_mut().filter(|it| it.all) {
            let covers = |store: &&Store| {
                publication.tables.contains(&store.oid) || publication.tables.contains(&store.of)
            };
            let covered: Vec<&Store> = stores.iter().filter(covers).collect();
            if covered.iter().all(|store| store.identified) {
                continue;
            }
            let note = Note {
                published: covered.iter().map(|store| (store.oid, false)).collect(),
                ..Note::default()
            };
            let statement = publication::set_events(&publication.name, false);
            log.write(&[statement], &note).await?;
            publication.all = false;
        }
        Ok(())
    }

    /// Brings the publications to what they have to be, with the note of what was found.
    async fn apply(
        &mut self,
        next: Vec<Followed>,
        mut note: Note,
        before: HashMap<u32, bool>,
        log: &mut Log<'_>,
    ) -> Result<()> {
        let numbered: Vec<Numbered<'_>> = next.iter().map(Followed::numbered).collect();
        let wanted = publication::wanted(&self.prefix, &numbered, self.publish);
        let statements = statements(&self.current, &wanted);
        let now = log.shared.state.lock().await.published.clone();
        let changed = published(&next, self.publish).into_iter();
        let (changed, same): (Vec<_>, Vec<_>) =
            changed.partition(|(oid, all)| before.get(oid) != Some(all));
        // What was protected may be published again as before.
        let back = same
            .into_iter()
            .filter(|(oid, all)| now.get(oid) != Some(all));
        let anew: BTreeSet<u32> = changed.iter().map(|(oid, _)| *oid).collect();
        note.published = changed.into_iter().chain(back).collect();
        note.published.sort_unstable();
        let anew = next
            .iter()
            .filter(|it| it.is_published_anew(&anew, &before));
        let detail = "other events of the table are published from here on";
        let anew = anew.map(|it| it.mark(Kind::PublishedEventsChanged, detail, log.now));
        let anew: Vec<Seen> = anew.collect();
        note.markers.extend(anew);
        let moved = !statements.is_empty();
        let open = match moved {
            true => log.open_transactions().await?,
            false => Vec::new(),
        };
        if !statements.is_empty() || !note.is_empty() {
            log.write(&statements, &note).await?;
        }
        for next in wanted {
            self.current.retain(|it| it.name != next.name);
            self.current.push(next);
        }
        self.followed = next;
        self.later.clear();
        incomplete(moved, note.markers, open, log).await
    }
}

/// The tables in the publications of a number.
fn members(current: &[Wanted], name: &str) -> BTreeSet<u32> {
    let inserts = format!("{name}_inserts");
    let ours = current
        .iter()
        .filter(|it| it.name == name || it.name == inserts);
    ours.flat_map(|it| it.tables.iter().copied()).collect()
}

/// What holds rows of a table: itself or a partition.
struct Store {
    oid: u32,
    /// The table that was asked for.
    of: u32,
    identified: bool,
}

impl Followed {
    fn stores(&self) -> Vec<Store> {
        let of = self.oid;
        let own = (!self.table.partitioned).then_some((&self.oid, &self.table.storage));
        let all = self.table.leaves.iter().chain(own);
        let all = all.filter(|_| !self.gone);
        all.map(|(oid, store)| Store {
            oid: *oid,
            of,
            identified: store.identified,
        })
        .collect()
    }

    fn numbered(&self) -> Numbered<'_> {
        Numbered {
            number: self.number,
            oid: self.oid,
            table: (!self.gone).then_some(&self.table),
        }
    }

    /// Whether other events of the table, or of a partition that was there before, are published.
    fn is_published_anew(&self, changed: &BTreeSet<u32>, before: &HashMap<u32, bool>) -> bool {
        changed.iter().any(|oid| {
            let ours = *oid == self.oid || self.table.leaves.contains_key(oid);
            ours && before.contains_key(oid)
        })
    }

    /// Its partitions, and itself as their root.
    fn roots(&self) -> impl Iterator<Item = (u32, Root)> {
        let root = Root {
            oid: self.oid,
            namespace: self.table.namespace.clone(),
            name: self.table.name.clone(),
            columns: self.table.columns.clone(),
        };
        let leaves = self.table.leaves.keys();
        leaves.map(move |leaf| (*leaf, root.clone()))
    }

    fn mark(&self, kind: Kind, detail: &str, now: Lsn) -> Seen {
        Seen {
            namespace: self.table.namespace.clone(),
            table: self.table.name.clone(),
            after: self.seen.min(now).get(),
            before: now.get(),
            ..Seen::new(kind, detail)
        }
    }
}

/// Says which transactions were open when publications were changed: what they did before is
/// published by the former rule, and what they do now by the new one. `before` were open before
/// the change.
async fn incomplete(
    moved: bool,
    markers: Vec<Seen>,
    before: Vec<u32>,
    log: &mut Log<'_>,
) -> Result<()> {
    if !moved || markers.is_empty() {
        return Ok(());
    }
    let after = log.open_transactions().await?;
    let open: BTreeSet<u32> = before.into_iter().chain(after).collect();
    if open.is_empty() {
        return Ok(());
    }
    let markers = markers.into_iter().map(|seen| Seen {
        incomplete: open.iter().copied().collect(),
        detail: "these transactions were open, and may be published in part".into(),
        ..seen
    });
    let note = Note {
        markers: markers.collect(),
        ..Note::default()
    };
    log.write(&[], &note).await
}

fn published(followed: &[Followed], publish: Publish) -> HashMap<u32, bool> {
    let there = followed.iter().filter(|it| !it.gone);
    there
        .flat_map(|it| publication::published(it.oid, &it.table, publish))
        .collect()
}

/// What brings publications from `current` to `wanted`. Tables are locked in the order of their
/// oids.
fn statements(current: &[Wanted], wanted: &[Wanted]) -> Vec<String> {
    let (mut members, mut events) = (Vec::new(), Vec::new());
    for next in wanted {
        let Some(now) = current.iter().find(|now| now.name == next.name) else {
            continue;
        };
        let name = next.name.as_str();
        let dropped = now.tables.difference(&next.tables);
        members.extend(dropped.map(|oid| (*oid, "drop", name)));
        let added = next.tables.difference(&now.tables);
        members.extend(added.map(|oid| (*oid, "add", name)));
        if now.all != next.all {
            events.push(publication::set_events(name, next.all));
        }
    }
    // Dropped first: a partition goes from one publication to the other.
    members.sort_unstable_by_key(|(oid, verb, _)| (*oid, *verb != "drop"));
    let mut statements = Vec::new();
    if !members.is_empty() {
        statements.push(format!("set local lock_timeout = '{LOCK_TIMEOUT}'"));
    }
    let moves = members.into_iter();
    statements.extend(moves.map(|(oid, verb, name)| publication::member(name, verb, oid)));
    statements.extend(events);
    statements
}

/// One look at the catalogs.
struct Look<'a> {
    tables: &'a BTreeMap<u32, Table>,
    begun: Lsn,
    now: Lsn,
    on_change: OnChange,
}

impl Look<'_> {
    /// Compares a table with what it was. `named` is what its name means now.
    fn compare(&self, followed: &mut Followed, named: Option<u32>, note: &mut Note) {
        let other = named.filter(|oid| *oid != followed.oid);
        let other = other.and_then(|oid| Some((oid, self.tables.get(&oid)?)));
        match (other, self.tables.get(&followed.oid)) {
            (Some((oid, table)), _) => self.replaced(followed, oid, table, note),
            (None, None) if self.on_change == OnChange::End => {
                let message = format!(
                    "the table {} was dropped between {} and {}",
                    followed.asked, followed.seen, self.now
                );
                end(followed, message, note);
            }
            (None, None) if followed.gone => {}
            (None, None) => {
                followed.gone = true;
                let what = "the table was dropped; one that takes its name will be followed";
                note.markers.push(Seen {
                    former_oid: followed.oid,
                    ..followed.mark(Kind::TableReplaced, what, self.now)
                });
            }
            (None, Some(table)) => {
                self.changed(followed, table, note);
                followed.table = table.clone();
                followed.seen = self.begun;
            }
        }
    }

    fn replaced(&self, followed: &mut Followed, oid: u32, table: &Table, note: &mut Note) {
        let what = format!(
            "another table has the name {} since a moment between {} and {}",
            followed.asked, followed.seen, self.now
        );
        // It would need publications that the stream does not read.
        let other_kind = table.partitioned != followed.table.partitioned;
        if self.on_change == OnChange::End || !table.followable || other_kind {
            return end(followed, what, note);
        }
        note.followed.push(oid);
        note.markers.push(Seen {
            former_oid: followed.oid,
            relation_oid: oid,
            ..followed.mark(Kind::TableReplaced, &what, self.now)
        });
        followed.oid = oid;
        followed.table = table.clone();
        followed.gone = false;
        followed.seen = self.begun;
    }

    /// What happened to the rows of a table beside the changes that the log has.
    fn changed(&self, followed: &Followed, is: &Table, note: &mut Note) {
        let was = &followed.table;
        let mut mark = |kind, partitions: Vec<String>, detail: &str| {
            if !partitions.is_empty() {
                note.markers.push(Seen {
                    partitions,
                    ..followed.mark(kind, detail, self.now)
                });
            }
        };
        let names = |from: &Table, without: &Table| -> Vec<String> {
            let leaves = from.leaves.iter();
            let gone = leaves.filter(|(oid, leaf)| {
                let other = without.leaves.get(oid);
                other.is_none_or(|other| other.since != leaf.since)
            });
            gone.map(|(_, leaf)| leaf.name.clone()).collect()
        };
        let attached = "partitions were attached, with the rows that were in them";
        mark(Kind::PartitionsAttached, names(is, was), attached);
        let detached = "partitions were detached or dropped, with the rows in them";
        mark(Kind::PartitionsDetached, names(was, is), detached);
        let same = is.leaves.iter().filter_map(|(oid, leaf)| {
            let before = was.leaves.get(oid)?;
            rewritten(before, leaf).then(|| leaf.name.clone())
        });
        let why = "the rows were written anew, perhaps with other values";
        mark(Kind::TableRewritten, same.collect(), why);
        if !is.partitioned && rewritten(&was.storage, &is.storage) {
            let seen = followed.mark(Kind::TableRewritten, why, self.now);
            note.markers.push(seen);
        }
    }
}

/// Whether the rows may have other values than before without a change in the log: a column was
/// changed and all rows were written anew, or a column came with a value for the rows that are
/// there. TRUNCATE, which the log has, VACUUM FULL and CLUSTER change no column.
fn rewritten(was: &Storage, is: &Storage) -> bool {
    let filled = is
        .missing
        .iter()
        .any(|column| !was.missing.contains(column));
    (was.file != is.file && was.columns != is.columns) || filled
}

fn end(followed: &Followed, message: String, note: &mut Note) {
    note.end.get_or_insert(End {
        publication: false,
        name: followed.asked.to_string(),
        message,
    });
}
