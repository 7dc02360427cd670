//! The alerts and the dashboard read metrics that exist, and the dashboard reads all of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{root, text};

/// The metrics of the page, by their names in Prometheus, with those of the histograms.
pub(crate) fn metrics() -> Vec<(String, bool)> {
    let page = text(&root().join("docs/metrics.md"));
    let (metrics, _) = page.split_once("| label |").unwrap();
    let rows = metrics.lines().filter(|line| line.starts_with("| `"));
    let named = rows.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        let (name, kind, unit) = (plain(cells[1]), cells[2], plain(cells[3]));
        let mut name = name.replace('.', "_");
        match unit.as_str() {
            "s" => name.push_str("_seconds"),
            "By" => name.push_str("_bytes"),
            _ => {}
        }
        if kind == "counter" {
            name.push_str("_total");
        }
        (name, kind == "histogram")
    });
    named.collect()
}

/// The labels of the page, by their names in Prometheus, and what Prometheus adds.
fn labels() -> BTreeSet<String> {
    let page = text(&root().join("docs/metrics.md"));
    let (_, labels) = page.split_once("| label |").unwrap();
    let named = labels.lines().filter_map(|line| line.strip_prefix("| `"));
    let named = named.map(|line| line.split('`').next().unwrap().replace('.', "_"));
    named.chain(["le".into(), "instance".into()]).collect()
}

/// The metrics and labels that an expression of Prometheus names: all of them have an
/// underscore, which no function that is used here has, but for those that are left out.
fn names(expression: &str) -> BTreeSet<String> {
    // What is in quotes is a value.
    let code: String = expression.split('"').step_by(2).collect();
    let code = code.replace("$__rate_interval", "");
    let words = code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let words = words.filter(|word| word.contains('_') && *word != "histogram_quantile");
    words.map(str::to_owned).collect()
}

/// The metrics among the names, without what Prometheus appends for histograms.
fn checked(expression: &str) -> BTreeSet<String> {
    let (metrics, labels) = (metrics(), labels());
    let metric = |name: &String| {
        let found = metrics.iter().find(|(metric, is_histogram)| {
            let ending = name.strip_prefix(metric.as_str());
            ending.is_some_and(|ending| match is_histogram {
                true => ["_bucket", "_count", "_sum"].contains(&ending),
                false => ending.is_empty(),
            })
        });
        found.map(|(metric, _)| metric.clone())
    };
    let names = names(expression);
    let unknown: Vec<&String> = names
        .iter()
        .filter(|name| metric(name).is_none() && !labels.contains(*name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} in {expression}");
    names.iter().filter_map(metric).collect()
}

#[test]
fn every_alert_reads_metrics_that_exist() {
    let rules = text(&root().join("docs/prometheus/alerts.yaml"));
    let mut alerts = BTreeSet::new();
    for rule in rules.split("- alert: ").skip(1) {
        let mut lines = rule.lines();
        assert!(alerts.insert(lines.next().unwrap()), "{rule}");
        let keys = [
            "expr: '",
            "for: ",
            "labels:",
            "severity: ",
            "annotations:",
            "summary: ",
        ];
        for key in keys {
            let line = lines.next().unwrap().trim();
            let value = line.strip_prefix(key).expect(key);
            if let Some(expression) = value.strip_suffix('\'').filter(|_| key == keys[0]) {
                assert!(!checked(expression).is_empty(), "{rule}");
            }
        }
    }
    assert!(alerts.len() > 10);
}

#[test]
fn the_dashboard_reads_every_metric_and_no_other() {
    let dashboard = text(&root().join("docs/grafana/howdah.json"));
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut read = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            read.append(&mut checked(target["expr"].as_str().unwrap()));
        }
    }
    let all: BTreeSet<String> = metrics().into_iter().map(|(name, _)| name).collect();
    assert_eq!(read, all);
}

#[test]
fn an_unknown_metric_is_found() {
    let found = std::panic::catch_unwind(|| checked("rate(howdah_refusal_total[5m])"));
    assert!(found.is_err());
    let labelled =
        std::panic::catch_unwind(|| checked("sum by (howdah_limits) (howdah_instances)"));
    assert!(labelled.is_err());
    let known = checked("sum by (le) (rate(rpc_server_call_duration_seconds_bucket[5m]))");
    assert_eq!(known.len(), 1);
}
