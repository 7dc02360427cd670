//! The pages of the conditions and of the metrics are complete, and name nothing else.

use std::collections::BTreeSet;

use howdah::domain::Reason;

use super::{files, root, text};

/// The texts in code quotes in the rows of a page's tables, by column.
fn rows(page: &str) -> Vec<Vec<BTreeSet<String>>> {
    let page = text(&root().join(page));
    let lines = page.lines().filter(|line| line.starts_with("| "));
    let lines = lines.filter(|line| !line.starts_with("| ---"));
    let quoted = |cell: &str| {
        let parts = cell.split('`').skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    };
    let cells = |line: &str| line.split('|').skip(1).map(quoted).collect();
    lines.map(cells).collect()
}

/// The sources that make conditions, without their tests.
fn sources(directories: &[&str]) -> String {
    let paths = directories.iter().flat_map(|place| files(place, "rs"));
    let texts = paths.map(|path| {
        let source = text(&path);
        let (code, _) = source
            .split_once("#[cfg(test)]\nmod tests")
            .unwrap_or((&source, ""));
        code.to_owned()
    });
    texts.collect()
}

/// The string literals for which `fits`.
fn literals(source: &str, fits: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let parts = source.split('"').skip(1);
    parts.filter(|part| fits(part)).map(str::to_owned).collect()
}

fn is_a_reason(text: &str) -> bool {
    let known = |c: char| c.is_ascii_uppercase() || c == '_';
    text.len() > 3 && text.chars().all(known) && text.starts_with(|c: char| c != '_')
}

fn is_a_type(text: &str) -> bool {
    text.len() > 3
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphabetic())
        && text.chars().any(|c| c.is_ascii_lowercase())
}

#[test]
fn the_page_of_conditions_has_every_reason_of_the_use_cases() {
    let source = sources(&["src/app"]);
    // The words of filters are states.
    let parts = source.split("Type::Word(&[").enumerate();
    let without_states = parts.map(|(index, part)| match index {
        0 => part,
        _ => part.split_once(']').unwrap().1,
    });
    let used = literals(&without_states.collect::<String>(), is_a_reason);
    let rows = rows("docs/conditions.md");
    let told = rows.iter().filter_map(|cells| cells.get(1)).flatten();
    let told: BTreeSet<String> = told.cloned().collect();
    assert_eq!(told, used);
    for row in rows.iter().filter(|cells| !cells[0].is_empty()) {
        for status in &row[0] {
            assert!(
                ["TRUE", "FALSE", "UNKNOWN"].contains(&status.as_str()),
                "{row:?}"
            );
        }
    }
    // A reason of an error leads to its page.
    let clash = told.iter().find(|text| Reason::parse(text).is_some());
    assert_eq!(clash, None);
}

#[test]
fn the_page_of_conditions_has_every_type() {
    let mut source = sources(&["src/app", "src/api/convert"]);
    for place in ["src/domain/instance.rs", "src/domain/change_stream.rs"] {
        let whole = text(&root().join(place));
        source.push_str(whole.split("#[cfg(test)]").next().unwrap());
    }
    let used = literals(&source, is_a_type);
    let page = text(&root().join("docs/conditions.md"));
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    let told: BTreeSet<String> = headings.map(str::to_owned).collect();
    assert_eq!(told, used);
}

#[test]
fn the_page_of_metrics_has_every_metric_and_label() {
    let source = sources(&["src"]);
    let names = text(&root().join("src/telemetry/names.rs"));
    // The name of a constant, and its value.
    let constants = names.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("pub const ")?.split_once(": &str = \"")?;
        Some((name, value.strip_suffix("\";")?))
    });
    let constants: Vec<(&str, &str)> = constants.collect();
    let kinds = [
        ("_histogram(", "histogram"),
        ("_up_down_counter(", "up-down counter"),
        ("_counter(", "counter"),
        ("_gauge(", "gauge"),
    ];
    let mut used = BTreeSet::new();
    for (maker, kind) in kinds {
        for made in source.split(maker).skip(1) {
            let Some(name) = made.strip_prefix("names::") else {
                continue;
            };
            let (name, rest) = name.split_once(')').unwrap();
            let (_, value) = constants.iter().find(|(known, _)| *known == name).unwrap();
            let (_, unit) = rest.split_once(".with_unit(\"").unwrap();
            let (unit, _) = unit.split_once('"').unwrap();
            // `i64_up_down_counter(` ends with the name of another maker.
            used.insert((kind, (*value).to_owned(), unit.to_owned()));
        }
    }
    let doubled: Vec<_> = used
        .iter()
        .filter(|(kind, ..)| *kind == "up-down counter")
        .map(|(_, name, unit)| ("counter", name.clone(), unit.clone()))
        .collect();
    used.retain(|found| !doubled.contains(found));

    let page = text(&root().join("docs/metrics.md"));
    let (metrics, labels) = page.split_once("| label |").unwrap();
    let table = metrics.lines().filter(|line| line.starts_with("| `"));
    let cells = table.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let cells: Vec<Vec<&str>> = cells.collect();
    let plain = |cell: &str| cell.trim_matches('`').to_owned();
    let told: BTreeSet<_> = cells
        .iter()
        .map(|row| (row[2], plain(row[1]), plain(row[3])))
        .collect();
    assert_eq!(told, used);
    assert!(cells.iter().all(|row| row[5].len() > 10), "{cells:?}");

    // Labels: what the sources give to measurements.
    let given = source.split("KeyValue::new(names::").skip(1);
    let given = given.map(|rest| rest.split([',', ')']).next().unwrap());
    let resource = ["SERVICE_VERSION", "SERVICE_INSTANCE_ID"];
    let given = given.filter(|name| !resource.contains(name)).map(|name| {
        let known = constants.iter().find(|(known, _)| *known == name);
        known.unwrap().1.to_owned()
    });
    let given: BTreeSet<String> = given.collect();
    let mentioned = cells.iter().flat_map(|row| row[4].split(", ").map(plain));
    let mentioned: BTreeSet<String> = mentioned.filter(|name| !name.is_empty()).collect();
    assert_eq!(mentioned, given);
    let described = labels.lines().filter_map(|line| line.strip_prefix("| `"));
    let described = described.map(|line| line.split('`').next().unwrap().to_owned());
    assert_eq!(described.collect::<BTreeSet<_>>(), given);
}
