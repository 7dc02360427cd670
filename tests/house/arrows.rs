//! Which room may use which, as `docs/ARCHITECTURE.md` says.

use std::{collections::BTreeSet, path::Path};

use super::{files, root, text};

/// A room, and the rooms that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("accept", &["auth", "domain"]),
    ("admin", &["accept", "auth"]),
    (
        "api",
        &["accept", "app", "streams", "auth", "client", "domain", "pb"],
    ),
    ("app", &["domain", "store", "pg", "streams"]),
    ("auth", &["domain", "store"]),
    ("bootstrap", ROOMS),
    ("cli", &["bootstrap", "client", "domain", "pb"]),
    ("client", &["pb"]),
    ("config", &["domain"]),
    ("domain", &[]),
    ("failpoint", &[]),
    ("lib", &[]),
    ("main", &["cli"]),
    ("pb", &[]),
    ("pg", &[]),
    ("providers", &["domain", "pg"]),
    ("store", &["domain"]),
    ("streams", &["domain", "store", "pg", "pb"]),
    ("telemetry", &["config", "domain"]),
];

/// Every room.
const ROOMS: &[&str] = &[
    "accept",
    "admin",
    "api",
    "app",
    "auth",
    "bootstrap",
    "cli",
    "client",
    "config",
    "domain",
    "failpoint",
    "pb",
    "pg",
    "providers",
    "store",
    "streams",
    "telemetry",
];

/// What everyone but `domain` may use.
const FREE: &[&str] = &["config", "telemetry", "failpoint"];

/// Crates, and the rooms that alone may name them.
const CRATES: &[(&str, &[&str])] = &[
    ("sqlx", &["bootstrap", "store", "telemetry"]),
    (
        "tokio_postgres",
        &["app", "pg", "providers", "streams", "telemetry"],
    ),
    (
        "tonic",
        &["api", "bootstrap", "cli", "client", "pb", "telemetry"],
    ),
];

#[test]
fn rooms_use_only_whom_they_may() {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for path in files("src", "rs") {
        let path = path.strip_prefix(root().join("src")).unwrap();
        let room = room(path);
        let code = code(&text(&root().join("src").join(path)));
        let allowed = allowed(&room);
        for used in used(&code, depth(path)) {
            if used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {room} must not use {used}", path.display()));
            }
        }
        for (name, owners) in CRATES {
            if !owners.contains(&room.as_str()) && names(&code, &format!("{name}::")) {
                wrong.push(format!("{}: {room} must not use {name}", path.display()));
            }
        }
        seen.insert(room);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.contains("domain"), "no source was read");
}

#[test]
fn every_way_to_name_a_room_is_seen() {
    let seen = |text: &str| used(&code(text), 2).into_iter().collect::<Vec<_>>();
    assert_eq!(seen("use crate::store;"), ["store"]);
    assert_eq!(seen("let x = crate::pg::Lsn(1);"), ["pg"]);
    assert_eq!(
        seen("use crate::{\n  app::{auth, x},\n  pb as p};"),
        ["app", "pb"]
    );
    assert_eq!(seen("use super::super::store::Store;"), ["store"]);
    assert_eq!(seen("use howdah::cli;"), ["cli"]);
    assert!(seen("// crate::store\nuse super::store; use mycrate::app;").is_empty());
}

/// The room that a file below `src` belongs to.
fn room(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str();
    let first = first.to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// How many modules lie between a file and the crate, its own included.
fn depth(path: &Path) -> usize {
    let own = usize::from(path.file_name().is_none_or(|name| name != "mod.rs"));
    path.components().count() - 1 + own
}

fn allowed(room: &str) -> Vec<&'static str> {
    let row = ARROWS.iter().find(|(name, _)| *name == room);
    let (_, rooms) = row.unwrap_or_else(|| panic!("`{room}` is no room: give it its arrows"));
    let free = if room == "domain" { &[] } else { FREE };
    rooms.iter().chain(free).copied().collect()
}

/// The text without line comments, where rooms may be linked.
fn code(text: &str) -> String {
    let lines = text.lines();
    lines
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The rooms that are named through `crate::`, `howdah::` or a chain of `super::`.
fn used(code: &str, depth: usize) -> BTreeSet<String> {
    let roots = [
        "crate::".to_owned(),
        "howdah::".to_owned(),
        "super::".repeat(depth.max(1)),
    ];
    let mut used = BTreeSet::new();
    for root in &roots {
        for rest in after(code, root) {
            used.extend(
                heads(rest)
                    .into_iter()
                    .filter(|head| ROOMS.contains(&head.as_str())),
            );
        }
    }
    used
}

/// What follows each `prefix` that is not the end of a longer word.
fn after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).filter_map(move |(at, _)| {
        let longer = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        (!longer).then(|| &code[at + prefix.len()..])
    })
}

fn names(code: &str, prefix: &str) -> bool {
    after(code, prefix).next().is_some()
}

/// The first segments of a path, or of each path of a `{...}` group.
fn heads(rest: &str) -> Vec<String> {
    let word = |text: &str| {
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(text.len());
        text[..end].to_owned()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let (mut heads, mut level, mut from) = (Vec::new(), 1, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' => level -= 1,
            _ => {}
        }
        if level == 0 || (level == 1 && c == ',') {
            heads.push(word(group[from..at].trim()));
            from = at + 1;
        }
        if level == 0 {
            break;
        }
    }
    heads
}
