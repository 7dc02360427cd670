//! Change records as lines of text for people.

use serde_json::{Map, Value};

use crate::{cli::output::clean, pb::v1::change_batch::WaitingFor};

/// One line without control characters.
pub(super) fn line(record: &Value) -> String {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let event = text("event");
    let line = match event {
        "insert" | "update" | "delete" => row(record, event, text("table")),
        "schema" => {
            let inserts = match text("published") {
                "INSERTS" => ", inserts and truncates only",
                _ => "",
            };
            format!(
                "schema {} ({}){inserts}",
                text("table"),
                list(record, "columns")
            )
        }
        "marker" => format!(
            "marker {} {} {}: {}, between {} and {}",
            text("kind"),
            text("table"),
            list(record, "partitions"),
            text("detail"),
            text("afterLsn"),
            text("beforeLsn")
        ),
        "truncate" => {
            let flag = |name: &str| record.get(name) == Some(&Value::Bool(true));
            let cascade = if flag("cascade") { " cascade" } else { "" };
            let identity = if flag("restartIdentity") {
                " restart identity"
            } else {
                ""
            };
            format!("truncate {}{cascade}{identity}", list(record, "tables"))
        }
        "message" => format!(
            "message {} {}",
            literal(text("prefix")),
            literal(text("content"))
        ),
        _ => {
            let xid = record.get("xid").map(Value::to_string).unwrap_or_default();
            format!("{event} {xid} {} {}", text("commitLsn"), text("commitTime"))
        }
    };
    clean(line.trim_end())
}

/// Describes what must end before changes are seen: the number of transactions, and the oldest.
pub(super) fn waiting(oldest: &WaitingFor, count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    let mut line = format!(
        "waiting for {count} transaction{plural} to end: {}",
        oldest.xid
    );
    if !oldest.database.is_empty() {
        line.push_str(&format!(" in {}", literal(&oldest.database)));
    }
    if !oldest.gid.is_empty() {
        line.push_str(&format!(", prepared as {}", literal(&oldest.gid)));
    }
    if let Some(time) = &oldest.start_time {
        line.push_str(&format!(", since {time}"));
    }
    if count > 1 {
        line.push_str(", and younger ones");
    }
    clean(&line)
}

fn row(record: &Value, event: &str, table: &str) -> String {
    let image = |name: &str| record.get(name).and_then(Value::as_object).map(columns);
    let unchanged = list(record, "unchanged");
    let mut line = format!("{event} {table}");
    match (image("after"), image("before")) {
        (Some(after), before) => {
            line.push_str(&format!(" {after}"));
            if let Some(before) = before {
                line.push_str(&format!(" (was {before})"));
            }
        }
        (None, Some(before)) => line.push_str(&format!(" {before}")),
        (None, None) => {}
    }
    if !unchanged.is_empty() {
        line.push_str(&format!(" (unchanged {unchanged})"));
    }
    line
}

fn columns(values: &Map<String, Value>) -> String {
    let column = |(name, value): (&String, &Value)| {
        let value = value.as_str().map_or("null".to_owned(), literal);
        format!("{name}={value}")
    };
    values.iter().map(column).collect::<Vec<_>>().join(" ")
}

/// A value without quotes if that is unambiguous, otherwise in single quotes as in SQL.
fn literal(text: &str) -> String {
    let clear = |c: char| c.is_ascii_alphanumeric() || "_-+.:".contains(c);
    if !text.is_empty() && text != "null" && text.chars().all(clear) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

fn list(record: &Value, name: &str) -> String {
    let items = record.get(name).and_then(Value::as_array);
    let texts = items.into_iter().flatten().filter_map(Value::as_str);
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::changes::tests, *};

    #[test]
    fn what_is_waited_for_is_named() {
        let running = WaitingFor {
            xid: 7,
            database: "shop".into(),
            start_time: Some(prost_types::Timestamp::default()),
            ..WaitingFor::default()
        };
        assert_eq!(
            waiting(&running, 1),
            "waiting for 1 transaction to end: 7 in shop, since 1970-01-01T00:00:00Z"
        );
        let prepared = WaitingFor {
            gid: "a b\n".into(),
            start_time: None,
            ..running
        };
        assert_eq!(
            waiting(&prepared, 2),
            "waiting for 2 transactions to end: 7 in shop, prepared as 'a b\\n', and younger ones"
        );
    }

    #[test]
    fn a_change_is_one_line() {
        let record = tests::known().read(&tests::update(), 1).unwrap();
        assert_eq!(
            line(&record),
            "update public.\"Odd.items\" id=1 name=null (was id='it''s\\n1') (unchanged big)"
        );
        let begin = json!({"event": "begin", "xid": 5, "commitLsn": "0/1", "commitTime": null});
        assert_eq!(line(&begin), "begin 5 0/1");
        let null = json!({"event": "insert", "table": "t", "after": {"a": "null", "b": ""}});
        assert_eq!(line(&null), "insert t a='null' b=''");
    }
}
