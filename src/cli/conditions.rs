//! The reasons of conditions, as `docs/conditions.md` explains them.

use serde_json::json;

use super::arguments::Output;

const PAGE: &str = include_str!("../../docs/conditions.md");

/// A row of the tables on that page.
pub(super) struct Observed<'a> {
    kind: &'a str,
    status: &'a str,
    when: &'a str,
}

/// All rows: type of the condition, status, reason, and when it is set.
fn rows() -> impl Iterator<Item = (&'static str, [&'static str; 3])> {
    let mut kind = "";
    PAGE.lines().filter_map(move |line| {
        if let Some(title) = line.strip_prefix("## ") {
            kind = title.trim();
        }
        let mut cells = line
            .strip_prefix("| ")?
            .strip_suffix(" |")?
            .splitn(3, " | ");
        let status = word(cells.next()?)?;
        Some((kind, [status, word(cells.next()?)?, cells.next()?]))
    })
}

/// The text between backticks, if the cell contains nothing else.
fn word(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

/// All reasons. A reason in several adjacent rows is listed once.
pub(super) fn reasons() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    rows().filter_map(move |(_, [_, reason, _])| {
        (std::mem::replace(&mut last, reason) != reason).then_some(reason)
    })
}

/// The conditions that have this reason.
pub(super) fn of(reason: &str) -> Vec<Observed<'static>> {
    let rows = rows().filter(|(_, [_, of, _])| *of == reason);
    rows.map(|(kind, [status, _, when])| Observed { kind, status, when })
        .collect()
}

/// The explanation of a reason.
pub(super) fn render(reason: &str, observed: &[Observed<'_>], output: Output) -> String {
    if output.is_data() {
        let conditions = observed
            .iter()
            .map(|row| json!({ "type": row.kind, "status": row.status, "when": row.when }));
        let conditions: serde_json::Value = conditions.collect();
        return json!({ "reason": reason, "conditions": conditions }).to_string();
    }
    let mut text = format!("# {reason}\n\nA reason of conditions of instances:\n");
    for row in observed {
        let Observed { kind, status, when } = row;
        text.push_str(&format!("\n- `{kind}` is `{status}`: {when}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_read() {
        let ended = of("SERVER_ENDED");
        let kinds: Vec<&str> = ended.iter().map(|row| row.kind).collect();
        assert_eq!(kinds, ["Available", "ServerRestarted"]);
        assert!(reasons().count() >= 12);
        assert!(of("READY").is_empty());
    }
}
