//! The dashboard and the alert rules ask for metrics and labels that nodes tell, and for nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{busy, metrics};

const DASHBOARD: &str = include_str!("../../../../ops/grafana/cube.json");
const RULES: &str = include_str!("../../../../ops/prometheus/cube.rules.yml");
/// What Prometheus itself adds: metrics and labels.
const OF_PROMETHEUS: [&str; 3] = ["up", "instance", "job"];

/// Every query of the dashboard.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    let queries = targets.flatten().map(|target| target["expr"].as_str().unwrap().to_owned());
    let nodes = dashboard["templating"]["list"][1]["query"]["query"].as_str().unwrap().to_owned();
    queries.chain([nodes]).collect()
}

/// An alert rule, as far as its shape matters here.
#[derive(Debug, Default)]
struct Rule {
    name: String,
    expr: String,
    severity: String,
    tells: usize,
}

/// The rules, in the subset of YAML that they are written in.
fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut folded = false;
    for line in RULES.lines().skip_while(|line| !line.contains("- alert: ")) {
        let (indent, text) = (line.len() - line.trim_start().len(), line.trim());
        if let Some(name) = text.strip_prefix("- alert: ") {
            rules.push(Rule { name: name.to_owned(), ..Rule::default() });
            continue;
        }
        let rule = rules.last_mut().unwrap();
        folded &= indent > 8;
        match text.split_once(": ") {
            _ if folded => rule.expr.push_str(&format!(" {text}")),
            Some(("expr", ">-")) => folded = true,
            Some(("expr", expr)) => expr.clone_into(&mut rule.expr),
            Some(("severity", severity)) => severity.clone_into(&mut rule.severity),
            Some(("summary" | "look", told)) => {
                assert!(told.starts_with('"') && told.ends_with('"'), "{line}");
                rule.tells += 1;
            }
            Some(("for", time)) => assert!(time.trim_end_matches(['m', 'h']).parse::<u8>().is_ok(), "{line}"),
            _ => assert!(["labels:", "annotations:", ""].contains(&text), "{line}"),
        }
    }
    rules
}

/// The metrics of a query, each with the labels that are asked of it, and the labels that stand elsewhere.
fn asked(query: &str) -> (BTreeMap<String, BTreeSet<String>>, BTreeSet<String>) {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let (mut metrics, mut labels) = (BTreeMap::new(), BTreeSet::new());
    // Texts and ranges name nothing.
    let mut plain = String::new();
    for (place, part) in query.split('"').enumerate() {
        plain.push_str(if place % 2 == 0 { part } else { "''" });
    }
    let mut rest = plain.as_str();
    while let Some(begin) = rest.find(|letter: char| letter.is_ascii_alphabetic()) {
        let word: String = rest[begin..].chars().take_while(|letter| is_name(*letter)).collect();
        let before = rest[..begin].chars().last();
        rest = &rest[begin + word.len()..];
        let is_metric = ["cube_", "process_"].iter().any(|prefix| word.starts_with(prefix)) || word == "up";
        if is_metric {
            let selector = rest.strip_prefix('{').and_then(|inner| inner.split('}').next()).unwrap_or_default();
            let matched = selector.split(',').filter_map(|one| one.split(['=', '!']).next());
            let matched = matched.map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned);
            metrics.entry(word).or_insert_with(BTreeSet::new).extend(matched);
        } else if ["by", "on"].contains(&word.as_str()) {
            let inner = rest.trim_start().strip_prefix('(').unwrap().split(')').next().unwrap();
            labels.extend(inner.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()));
        } else if before == Some('$') {
            assert!(["__rate_interval", "instance"].contains(&word.as_str()) || word.starts_with("__"), "{query}");
        }
    }
    (metrics, labels)
}

#[test]
fn the_dashboard_and_the_alerts_ask_only_for_what_nodes_tell() {
    let cluster = busy();
    let families = [1, 2].map(|node| metrics(&cluster, node));
    // By the name of a sample, the labels that it has.
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, family) in families.iter().flatten() {
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        for suffix in suffixes {
            let labels = told.entry(format!("{name}{suffix}")).or_default();
            labels.extend(family.samples.iter().flat_map(|sample| sample.labels.keys().cloned()));
        }
    }
    let queries = dashboard_queries().into_iter().chain(rules().into_iter().map(|rule| rule.expr));
    let mut used = 0;
    for query in queries {
        let (metrics, labels) = asked(&query);
        assert!(!metrics.is_empty(), "{query}");
        let mut known: BTreeSet<&str> = OF_PROMETHEUS.into();
        // label_replace makes this one.
        known.extend(query.contains("label_replace").then_some("target"));
        for (metric, matched) in &metrics {
            if OF_PROMETHEUS.contains(&metric.as_str()) {
                continue;
            }
            let has = told.get(metric).unwrap_or_else(|| panic!("no node tells {metric}: {query}"));
            let strange =
                matched.iter().find(|label| !has.contains(*label) && !OF_PROMETHEUS.contains(&label.as_str()));
            assert!(strange.is_none() || has.is_empty(), "{metric} has no label {strange:?}: {query}");
            known.extend(has.iter().map(String::as_str));
            used += 1;
        }
        let all_have_samples = metrics.keys().all(|metric| told.get(metric).is_some_and(|labels| !labels.is_empty()));
        let strange = labels.iter().find(|label| !known.contains(label.as_str()));
        assert!(strange.is_none() || !all_have_samples, "no metric has the label {strange:?}: {query}");
    }
    assert!(used > 60, "the queries are found");
}

#[test]
fn every_alert_says_how_urgent_it_is_and_what_to_look_at() {
    let rules = rules();
    assert!(rules.len() >= 15, "{rules:?}");
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names.len(), rules.len());
    for rule in &rules {
        assert!(rule.name.starts_with("Cube") && !rule.expr.is_empty(), "{rule:?}");
        assert!(["page", "ticket"].contains(&rule.severity.as_str()), "{rule:?}");
        assert_eq!(rule.tells, 2, "{rule:?}");
        let balance = |open, close| rule.expr.matches(open).count() == rule.expr.matches(close).count();
        assert!(balance('(', ')') && balance('{', '}') && balance('[', ']'), "{rule:?}");
    }
}
