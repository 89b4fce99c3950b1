//! The topology as text, exactly as orchestrator prints it: scripts parse its columns.

use std::collections::BTreeSet;

use crate::domain::cluster_view::ClusterView;
use crate::domain::instance::Instance;

use super::api_view::ApiView;
use super::shape::instance::InstanceShape;

/// How the columns are separated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `host:port [lag,status,version,…]`, the bracket in one column.
    Brackets,
    /// `host:port|lag|status|version|…`, each column padded.
    Tabulated,
}

/// Prints a cluster: each instance without a source, with its replicas below it. Each level is indented by two blanks. `+` stands
/// before a replica that replicates, `-` before one that does not.
pub(super) fn print(api_view: &ApiView<'_>, view: &ClusterView, style: Style) -> String {
    let mut rows = Vec::new();
    let mut printed = BTreeSet::new();
    let primary = ApiView::primary_of(view);
    let is_top = |instance: &&Instance| {
        view.topology
            .source_of(instance)
            .is_none_or(|source| !view.topology.instances.contains_key(source))
    };
    // Instances that remain are in a loop (co-primaries): they are printed from the lowest address.
    let order = primary
        .into_iter()
        .chain(view.topology.instances.values().filter(is_top))
        .chain(view.topology.instances.values());
    for root in order {
        print_below(api_view, view, root, 0, &mut printed, &mut rows);
    }
    layout(&rows, style)
}

struct Row {
    name: String,
    tokens: Vec<String>,
}

fn print_below<'v>(
    api_view: &ApiView<'_>,
    view: &'v ClusterView,
    instance: &'v Instance,
    depth: usize,
    printed: &mut BTreeSet<&'v crate::domain::key::InstanceKey>,
    rows: &mut Vec<Row>,
) {
    if !printed.insert(&instance.key) {
        return;
    }
    let shape = InstanceShape::of(api_view, view, instance);
    let prefix = match depth {
        0 => String::new(),
        _ if shape.is_replicating() && shape.is_last_check_valid && shape.is_recently_checked => {
            format!("{}+ ", "  ".repeat(depth - 1))
        }
        _ => format!("{}- ", "  ".repeat(depth - 1)),
    };
    rows.push(Row {
        name: format!("{prefix}{}", instance.key),
        tokens: tokens(api_view, &shape),
    });
    for replica in view.topology.replicas_of(&instance.key) {
        print_below(api_view, view, replica, depth + 1, printed, rows);
    }
}

fn tokens(api_view: &ApiView<'_>, shape: &InstanceShape) -> Vec<String> {
    let maximum_lag = api_view.options.maintenance_lag.as_secs();
    let lag = match shape.lag() {
        _ if !shape.is_last_check_valid => "unknown".to_owned(),
        None if shape.is_replica() => "null".to_owned(),
        lag => format!("{}s", lag.unwrap_or_default()),
    };
    let status = if !shape.is_last_check_valid {
        "invalid"
    } else if !shape.is_recently_checked {
        "unchecked"
    } else if shape.is_replica() && !shape.is_replicating() {
        "nonreplicating"
    } else if shape.lags_more_than(maximum_lag) {
        "lag"
    } else {
        "ok"
    };
    let mut extra = Vec::new();
    if shape.log_bin_enabled && shape.log_replication_updates_enabled {
        extra.push(">>");
    }
    if shape.supports_oracle_gtid || shape.using_oracle_gtid || shape.using_mariadb_gtid {
        extra.push(if shape.gtid_errant.is_empty() {
            "GTID"
        } else {
            "GTID:errant"
        });
    }
    if shape.semi_sync_master_status {
        extra.push("semi:master");
    }
    if shape.semi_sync_replica_status {
        extra.push("semi:replica");
    }
    if shape.is_downtimed {
        extra.push("downtimed");
    }
    vec![
        lag,
        status.to_owned(),
        shape.version.clone(),
        if shape.read_only { "ro" } else { "rw" }.to_owned(),
        if shape.log_bin_enabled {
            shape.binlog_format.clone()
        } else {
            "nobinlog".to_owned()
        },
        extra.join(","),
    ]
}

fn layout(rows: &[Row], style: Style) -> String {
    let width_of =
        |cells: &mut dyn Iterator<Item = &str>| cells.map(|cell| cell.chars().count()).max().unwrap_or_default();
    let names = width_of(&mut rows.iter().map(|row| row.name.as_str()));
    let columns = rows.iter().map(|row| row.tokens.len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| width_of(&mut rows.iter().filter_map(|row| row.tokens.get(column)).map(String::as_str)))
        .collect();
    let line = |row: &Row| match style {
        Style::Brackets => {
            let shown: Vec<&str> = row
                .tokens
                .iter()
                .map(String::as_str)
                .filter(|token| !token.is_empty())
                .collect();
            format!("{:names$} [{}]", row.name, shown.join(","))
        }
        Style::Tabulated => {
            let cells = row
                .tokens
                .iter()
                .zip(&widths)
                .map(|(token, width)| format!("|{token:width$}"));
            format!("{:names$}{}", row.name, cells.collect::<String>())
        }
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
