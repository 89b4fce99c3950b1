//! Orchestrator's table `kv_store`: the pairs of all clusters, as every member knows them from the state.
//!
//! While a primary is replaced the table has the old one. It has the addresses of a host only where the host is one: names are
//! resolved where pairs are published, not while a command is applied.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::domain::published_primary::{HostAddresses, KeyPrefix, PublishedTarget, pairs, published_primaries};
use crate::domain::state::State;

use super::database::{DatabaseError, Transaction};
use super::statement::statement;

/// The pairs of a state.
fn wanted_pairs(state: &State, prefix: &KeyPrefix) -> BTreeMap<String, String> {
    let published = published_primaries(state, |_, _| false).published;
    let of_cluster = published.values().flat_map(|published| {
        let (PublishedTarget::Primary(primary) | PublishedTarget::Replacing(primary)) = &published.target;
        let address: Option<IpAddr> = primary.hostname.parse().ok();
        let addresses = address.map(|address| [address].into_iter().collect::<HostAddresses>());
        pairs(prefix, &published.name, primary, addresses.as_ref())
    });
    of_cluster.collect()
}

/// Writes the rows that differ.
pub(super) async fn write(
    transaction: &mut Transaction,
    state: &State,
    prefix: &KeyPrefix,
) -> Result<(), DatabaseError> {
    let wanted = wanted_pairs(state, prefix);
    let rows = transaction
        .rows(statement("SELECT store_key, store_value FROM kv_store"))
        .await?;
    let present: BTreeMap<String, String> = rows.iter().map(|row| (row.text(0), row.text(1))).collect();
    for key in present.keys().filter(|key| !wanted.contains_key(*key)) {
        let gone = statement("DELETE FROM kv_store WHERE store_key = ?").bind(key);
        transaction.execute(gone).await?;
    }
    for (key, value) in wanted.iter().filter(|(key, value)| present.get(*key) != Some(*value)) {
        let written = statement("REPLACE INTO kv_store (store_key, store_value, last_updated) VALUES (?, ?, @STAMP)")
            .bind(key)
            .bind(value)
            .bind(state.clock.0);
        transaction.execute(written).await?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "kv_tests.rs"]
mod tests;
