//! A primary is killed under writers, and what that costs its users is measured: by the writers and by asking the servers, never by
//! asking ham4db.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tokio::sync::watch;

use super::server::Server;
use super::sql::Address;
use super::topology::Topology;
use super::wait::until;
use super::writers::{Acknowledged, Writers, missing};

/// What users saw of a failover.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) from: Address,
    pub(crate) to: Address,
    /// The place of the new primary among the servers.
    pub(crate) successor: usize,
    /// From the kill to the first row that the new primary acknowledged.
    pub(crate) writable_after: Duration,
    /// From the kill to the moment when every other surviving server was seen to replicate from the new primary, with both threads.
    pub(crate) repointed_after: Duration,
    /// Just before SIGKILL was sent.
    pub(crate) killed: Instant,
}

impl Measured {
    /// The demo's last line.
    pub(crate) fn line(&self, lost: usize) -> String {
        format!(
            "failover: {} -> {}, writable after {:.2} s, replicas repointed after {:.2} s, acknowledged rows lost: {lost}",
            self.from,
            self.to,
            self.writable_after.as_secs_f64(),
            self.repointed_after.as_secs_f64()
        )
    }
}

/// Kills the first server with SIGKILL and waits until another one takes the writers and the rest follow it.
pub(crate) async fn kill_primary(topology: &mut Topology, writers: &Writers, limit: Duration) -> Result<Measured> {
    let from = topology.server(0)?.address().clone();
    let killed = topology.server_mut(0)?.kill()?;
    measure(topology, writers, &from, killed, limit).await
}

/// Waits until another server than `from`, which was killed at a moment, takes the writers and the rest follow it.
pub(crate) async fn measure(
    topology: &Topology,
    writers: &Writers,
    from: &Address,
    killed: Instant,
    limit: Duration,
) -> Result<Measured> {
    let old_primary = topology.index_of(from)?;
    let survivors: Vec<usize> = (0..topology.servers.len())
        .filter(|index| *index != old_primary && topology.servers.get(*index).is_some_and(Server::is_running))
        .collect();
    // Each survivor is watched from the start: when it followed whom counts, and a replica that is fed follows two in turn.
    let (promoted, known) = watch::channel(None);
    let following = survivors.iter().map(|index| follows(topology, *index, &known, limit));
    let taken = async {
        let first = writers.first_elsewhere(old_primary, killed, limit).await;
        if let Ok(first) = &first {
            promoted.send_replace(Some(first.server));
        }
        first.context("no server accepts writes after the kill of the primary")
    };
    let (first, followed) = tokio::join!(taken, try_join_all(following));
    let first: Acknowledged = first?;
    let followed = followed.context("replicas were not repointed")?;
    let repointed = followed.into_iter().flatten().map(|at| at - killed).max();
    Ok(Measured {
        from: from.clone(),
        to: topology.server(first.server)?.address().clone(),
        successor: first.server,
        writable_after: first.at - killed,
        repointed_after: repointed.unwrap_or_default(),
        killed,
    })
}

/// Waits until a survivor replicates from the promoted one with both threads, and says since when it is seen to; `None` for the promoted
/// one itself.
async fn follows(
    topology: &Topology,
    index: usize,
    promoted: &watch::Receiver<Option<usize>>,
    limit: Duration,
) -> Result<Option<Instant>> {
    let server = topology.server(index)?;
    let mut session = server.session().await?;
    let what = format!("{} to follow or to be promoted", server.name());
    // The source that it replicates from, and since when.
    let mut present: Option<(String, Instant)> = None;
    until(limit, &what, async || {
        let to = *promoted.borrow();
        if to == Some(index) {
            return Ok(Some(None));
        }
        let status = topology.flavour.replica_status(&mut session).await?;
        let status = status.filter(|status| status.io_thread == "Yes" && status.sql_thread == "Yes");
        present = match (present.take(), status) {
            (Some((source, since)), Some(status)) if source == status.source => Some((source, since)),
            (_, status) => status.map(|status| (status.source, Instant::now())),
        };
        let wanted = match to {
            Some(to) => topology.server(to)?.address().to_string(),
            None => return Ok(None),
        };
        Ok(present
            .as_ref()
            .filter(|(source, _)| *source == wanted)
            .map(|(_, since)| Some(*since)))
    })
    .await
}

/// Stops the writers and counts the acknowledged rows that the new primary does not have, once all have caught up with it.
pub(crate) async fn count_lost(topology: &Topology, writers: Writers, successor: usize) -> Result<(usize, usize)> {
    let rows = writers.stop().await;
    topology.caught_up(successor, Duration::from_mins(1)).await?;
    Ok((missing(&rows, topology.server(successor)?).await?.len(), rows.len()))
}
